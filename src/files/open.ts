/**
 * Opens a point's partitions as files, without root and without mounting: an overlay that is thrown away,
 * served as files by `qemu-storage-daemon` (FUSE). The overlay is there because the journal of a file system
 * that was in use has to be replayed before it can be read rightly.
 *
 * @module
 */

import { attach, placeOf } from "../attach/attach.ts";
import { undo } from "../attach/detach.ts";
import { Failure, messageOf } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import { removeFolders } from "../fs/durable.ts";
import { makeTempFolder } from "../fs/files.ts";
import { openRegular, readRange } from "../fs/read.ts";
import { runProgram } from "../process/run.ts";
import { QmpClient } from "../qmp/client.ts";
import type { RestorePoint } from "../restore/points.ts";
import { openExt } from "./debugfs.ts";
import { type FileSystem, fileSystemOf, HEAD_BYTES } from "./file_system.ts";
import { type Partition, type ReadAt, readPartitions } from "./partitions.ts";
import type { Reader, Run } from "./reader.ts";
import { openBySevenZip } from "./seven_zip.ts";

export interface OpenPartition extends Partition {
  fileSystem: FileSystem | null;
}

export interface OpenPoint extends AsyncDisposable {
  /** Those of the table; the whole disk, as number 0, where there is none. */
  partitions: OpenPartition[];
  /**
   * Opens the file system of a partition; one at a time.
   *
   * @throws {Failure} If none can be read, with what to do.
   */
  open(partition: OpenPartition): Promise<Reader>;
}

const QMP_TIMEOUT_MS = 30_000;

/**
 * @param host This host's name.
 * @param keyFile The file with the key of encrypted images; null where none is given.
 */
export async function openPoint(
  point: RestorePoint,
  { deadline, host, keyFile, signal }: {
    deadline: Deadline;
    host: string;
    keyFile: string | null;
    signal: AbortSignal;
  },
): Promise<OpenPoint> {
  await using stack = new AsyncDisposableStack();
  const folder = await makeTempFolder(deadline, "/tmp");
  stack.defer(() => removeFolders(deadline, [folder]));
  const attachment = await attach([point], {
    ...{ kind: "files", folder, deadline, host, keyFile, signal },
  });
  stack.defer(() => undo(deadline, placeOf(point), attachment));
  const [disk] = attachment.disks;
  const { sockets, files } = attachment;
  const [whole, part] = files.filter((path) => path.endsWith(".raw"));
  if (!sockets || !disk || !whole || !part) throw new Error("an attachment of another kind");
  const run: Run = (program, args, options) =>
    // What serves the file reads from the folder of the images.
    deadline.runProgram([placeOf(point), part], Infinity, (hanging) => {
      const stop = AbortSignal.any([signal, hanging]);
      return runProgram(program, args, { ...options, signal: stop });
    });
  const partitions = await lookAtPartitions(deadline, whole, disk.virtualSizeBytes);
  const kept = stack.move();
  return {
    partitions,
    async open(partition) {
      const { fileSystem } = partition;
      if (!fileSystem?.reader) throw unreadable(partition, point);
      await exportPart(sockets.qmp, partition, part);
      return fileSystem.reader === "debugfs"
        ? await openExt(part, run, fileSystem.needsReplay)
        : await openBySevenZip(part, run);
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

async function lookAtPartitions(
  deadline: Deadline,
  path: string,
  diskBytes: number,
): Promise<OpenPartition[]> {
  using file = await openRegular(deadline, path);
  const read: ReadAt = async (offset, length) => {
    const pieces: Uint8Array[] = [];
    await readRange(
      deadline,
      file,
      path,
      { offset, length },
      (chunk) => pieces.push(chunk.slice()),
    );
    return new Uint8Array(await new Blob(pieces as BlobPart[]).arrayBuffer());
  };
  const whole = { number: 0, offsetBytes: 0, sizeBytes: diskBytes };
  const found = await readPartitions(read, diskBytes);
  const partitions: OpenPartition[] = [];
  for (const partition of found.length > 0 ? found : [whole]) {
    const { offsetBytes, sizeBytes } = partition;
    const head = await read(offsetBytes, Math.min(HEAD_BYTES, sizeBytes));
    partitions.push({ ...partition, fileSystem: fileSystemOf(head) });
  }
  return partitions;
}

async function exportPart(qmp: string, { offsetBytes, sizeBytes }: Partition, path: string) {
  await using client = await QmpClient.connect({ transport: "unix", path: qmp }, {
    timeoutMs: QMP_TIMEOUT_MS,
  });
  await client.execute("blockdev-add", {
    driver: "raw",
    "node-name": "part",
    offset: offsetBytes,
    size: sizeBytes,
    file: "disk0",
  });
  try {
    await client.execute("block-export-add", {
      ...{ type: "fuse", id: "part", "node-name": "part" },
      ...{ mountpoint: path, writable: true },
    });
  } catch (error) {
    throw new Failure(`The partition can't be shown as a file: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

function unreadable({ number, fileSystem }: OpenPartition, { name }: RestorePoint): Failure {
  const what = fileSystem ? `holds ${fileSystem.type}` : "holds no file system that we know";
  return new Failure(
    `The partition ${number} of "${name}" ${what}, which restore files can't read. Open the point with ` +
      "restore attach, and copy with guestfish (Debian: guestfish), or mount it as root",
  );
}
