import { getLogger } from "@logtape/logtape";
import { isBackupBitmap } from "../../catalog/names.ts";
import { QmpClient } from "../../qmp/client.ts";
import { queryDisks } from "../../vm/disks.ts";
import { refuseLockedVm } from "../../vm/marks.ts";
import { removeBitmap } from "../../vm/nodes.ts";
import { jsonLine } from "../report.ts";
import { printable } from "../text.ts";
import type { CommandContext } from "./context.ts";
import { qmpTarget } from "./qmp_target.ts";

const log = getLogger(["qmpbackup", "cleanup"]);

/** `qmpbackup cleanup --remove-bitmap`. */
export async function cleanup({ values, io, signal }: CommandContext): Promise<number> {
  const { socket, qmpOptions } = qmpTarget(values);
  await using qmp = await QmpClient.connect(socket, qmpOptions);
  await refuseLockedVm(qmp);
  const { disks } = await queryDisks(qmp);
  const ours = disks.flatMap((disk) =>
    disk.bitmaps.filter(({ name }) => isBackupBitmap(name, values.uuid))
      .map(({ name }) => ({ disk: disk.name, node: disk.node, bitmap: name }))
  );
  for (const { disk, node, bitmap } of ours) {
    signal.throwIfAborted();
    await removeBitmap(qmp, node, bitmap);
    io.stdout(
      values.json
        ? jsonLine("removed", { disk, bitmap })
        : `Removing bitmap: ${printable(bitmap)}\n`,
    );
  }
  if (ours.length === 0) log.info("There is no bitmap of ours on this VM's disks");
  if (values.json) io.stdout(jsonLine("summary", { removed: ours.length }));
  return 0;
}
