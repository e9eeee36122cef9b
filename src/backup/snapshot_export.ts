/**
 * Lets `qemu-img` read the snapshot of a disk, through QEMU's NBD server: to store what has changed, or to compare
 * an image with it.
 *
 * @module
 */

import { watched } from "../fs/deadline.ts";
import type { RunOptions } from "../qemu_img/qemu_img.ts";
import { addExport, exportName, removeExport } from "../vm/nbd_server.ts";
import type { CopyOptions } from "./disk_copy.ts";
import type { DiskWork } from "./disk_work.ts";
import { stalled } from "./explain_copy.ts";
import type { ImageFile } from "./image_file.ts";

/**
 * Exports the snapshot, and works with it for as long as it comes further.
 *
 * @param nbdSocket Where QEMU's server is.
 * @param use Gets what `qemu-img` calls the export, and how it is to be run.
 */
export async function useExport(
  work: DiskWork,
  { partial }: ImageFile,
  nbdSocket: string,
  { signal, onProgress }: CopyOptions,
  use: (contents: string, how: RunOptions & { signal: AbortSignal }) => Promise<void>,
): Promise<void> {
  const { qmp, guest, disk: { disk, exportId, nodes } } = work;
  const { stallTimeoutMs } = work.plan.request;
  work.push(guest, `remove the export "${exportId}"`, () => removeExport(qmp, exportId));
  await addExport(qmp, exportId, nodes.snapshot);
  await watched(
    stallTimeoutMs,
    () => stalled(work.disk, partial, stallTimeoutMs),
    async (watch) => {
      await use(exportName(nbdSocket, nodes.snapshot), {
        signal: AbortSignal.any([signal, watch.signal]),
        onPercent: (percent) => {
          watch.progress();
          onProgress(percent / 100 * disk.virtualSizeBytes, disk.virtualSizeBytes);
        },
      });
    },
  );
}
