import { getLogger } from "@logtape/logtape";
import { resolve } from "@std/path";
import { listAttached } from "../../attach/detach.ts";
import { streamIn } from "../../attach/stream.ts";
import { UsageError } from "../../errors.ts";
import { QmpClient } from "../../qmp/client.ts";
import { removeAttachment } from "../../repo/attachment.ts";
import { type Disk, queryDisks } from "../../vm/disks.ts";
import { jsonLine } from "../output/report.ts";
import type { CommandContext } from "./context.ts";
import { qmpTarget } from "./qmp_target.ts";

const log = getLogger(["qmpbackup", "restore"]);

/** `qmpbackup restore finish`: what `restore vm --instant` began. */
export async function restoreFinish(
  { values, io, progress, deadline, signal }: CommandContext,
): Promise<number> {
  const dir = resolve(values.dir ?? ".");
  const attached = await listAttached(deadline, dir, Deno.hostname());
  const { socket, qmpOptions } = qmpTarget(values);
  await using qmp = await QmpClient.connect(socket, qmpOptions);
  const { disks } = await queryDisks(qmp);
  const moved: string[] = [];
  for (const { place, attachment } of attached) {
    if (attachment.kind !== "overlay" || attachment.files.length > 0) continue;
    const own = attachment.disks.map(({ open }) => diskOn(disks, open));
    if (own.every((disk) => disk === undefined)) continue;
    for (const [i, disk] of own.entries()) {
      const path = attachment.disks[i]?.open ?? "";
      if (!disk) throw new UsageError(`No disk of this VM has the file "${path}": start it first`);
      log.info("Moving the data of {path} in, while the guest runs", { path });
      await streamIn(qmp, disk.node, {
        bytesPerSecond: values["rate-limit"] ?? 0,
        signal,
        onProgress: (doneBytes, totalBytes) => progress.update(disk.name, doneBytes, totalBytes),
      });
      moved.push(path);
    }
    await removeAttachment(deadline, place, attachment.name);
  }
  progress.end();
  if (moved.length === 0) {
    throw new UsageError(
      `None of the VM's disks was made by "restore vm --instant" from "${dir}": there is nothing to move`,
    );
  }
  io.stdout(
    values.json
      ? jsonLine("summary", { state: "done", files: moved })
      : moved.map((path) => `Does not need the backups any more: ${path}\n`).join(""),
  );
  return 0;
}

const diskOn = (disks: Disk[], path: string) => disks.find(({ source }) => source === path);
