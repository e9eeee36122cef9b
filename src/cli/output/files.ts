/**
 * What `restore files` says. Pure.
 *
 * @module
 */

import type { OpenPartition } from "../../files/open.ts";
import type { Entry } from "../../files/reader.ts";
import { size, table } from "./text.ts";

/** The partitions of a disk. */
export function partitionsText(partitions: readonly OpenPartition[]): string {
  const rows = partitions.map(({ number, sizeBytes, fileSystem }) => [
    `/${number}`,
    fileSystem?.type ?? "-",
    size(sizeBytes),
    fileSystem?.reader ?? "-",
  ]);
  return table([["PATH", "FILE SYSTEM", "SIZE", "READ BY"], ...rows]);
}

/** A partition as `--json` tells it. */
export function partitionJson({ number, offsetBytes, sizeBytes, fileSystem }: OpenPartition) {
  return {
    ...{ path: `/${number}`, offsetBytes, sizeBytes },
    ...{ fileSystem: fileSystem?.type ?? null, reader: fileSystem?.reader ?? null },
  };
}

/** What a folder holds. */
export function entriesText(entries: readonly Entry[]): string {
  const rows = entries.map(({ name, kind, sizeBytes }) => [
    kind,
    kind === "file" ? size(sizeBytes) : "-",
    name,
  ]);
  return table([["KIND", "SIZE", "NAME"], ...rows]);
}
