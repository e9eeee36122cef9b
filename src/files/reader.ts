/**
 * A file system in a file, read by a program that is made for it. What it says of names is text that
 * somebody in the guest chose.
 *
 * @module
 */

import type { Ended, RunProgramOptions } from "../process/run.ts";

/** Runs a program on such a file; it is ended where the storage behind the file hangs. */
export type Run = (
  program: string,
  args: readonly string[],
  options: Omit<RunProgramOptions, "signal">,
) => Promise<Ended>;

/** Something in a folder. */
export interface Entry {
  name: string;
  kind: "folder" | "file" | "link" | "other";
  sizeBytes: number;
  /** What the reader knows it by. */
  id: string;
}

export interface Reader {
  /**
   * @param path From the root of the file system: "/etc".
   * @throws {Failure} If there is no such folder, or it can't be read.
   */
  list(path: string): Promise<Entry[]>;
  /** Gives the contents of a file, piece by piece. */
  read(entry: Entry, write: (bytes: Uint8Array) => Promise<void>): Promise<void>;
}

/** Whether a name can be a file's here: a damaged or malicious file system has others. */
export function isPlainName(name: string): boolean {
  return name !== "" && name !== "." && name !== ".." && !/[/\0]/.test(name);
}
