import { getLogger } from "@logtape/logtape";
import { resolve } from "@std/path";
import { cleanUp } from "../../recovery/clean_up.ts";
import { holderNow } from "../../fs/flock.ts";
import { UsageError } from "../../errors.ts";
import type { QmpClient } from "../../qmp/client.ts";
import { queryDisks } from "../../vm/disks.ts";
import { refuseLockedVm } from "../../vm/marks.ts";
import { isBackupBitmap } from "../../vm/names.ts";
import { removeBitmap } from "../../vm/switch_node.ts";
import { connectVm, nameHolder } from "../../vm/socket_holder.ts";
import { jsonLine } from "../output/report.ts";
import { printable } from "../output/text.ts";
import type { CommandContext } from "./context.ts";
import { qmpTarget, thawOf } from "./qmp_target.ts";

const log = getLogger(["qmpbackup", "cleanup"]);

/** `qmpbackup cleanup --recover` and `--remove-bitmap`, in this order where both are asked for. */
export async function cleanup(context: CommandContext): Promise<number> {
  const { values, io, deadline } = context;
  const { recover = false, "remove-bitmap": bitmaps = false, "dry-run": dryRun = false } = values;
  if (!recover && !bitmaps) {
    throw new UsageError('"cleanup" needs --recover or --remove-bitmap');
  }
  const { socket, qmpOptions } = qmpTarget(values);
  await using qmp = await connectVm(deadline, socket, qmpOptions);
  // Bitmaps are removed in a moment, and without the right to know the host's name.
  await using _named = recover ? await nameHolder(deadline, socket, holderNow("cleanup")) : null;
  const recovered = recover ? await recoverAll(qmp, context, dryRun) : 0;
  const removed = bitmaps ? await removeBitmaps(qmp, context, dryRun) : 0;
  const state = dryRun ? "planned" : "done";
  if (values.json) io.stdout(jsonLine("summary", { state, recovered, removed }));
  return 0;
}

async function recoverAll(
  qmp: QmpClient,
  { values, io, deadline }: CommandContext,
  dryRun: boolean,
): Promise<number> {
  let unsaid: unknown = null;
  const count = await cleanUp(qmp, {
    deadline,
    target: values.target === undefined ? null : resolve(values.target),
    thaw: thawOf(values),
    dryRun,
    onFound: ({ description }) => {
      try {
        io.stdout(
          values.json
            ? jsonLine("recovered", { what: description })
            : `${printable(description)}\n`,
        );
      } catch (error) {
        // A stopped guest must not wait until somebody reads this.
        unsaid ??= error;
      }
    },
  });
  if (unsaid !== null) throw unsaid;
  if (count === 0) log.info("There is nothing to clean up: no killed run has left anything here");
  return count;
}

async function removeBitmaps(
  qmp: QmpClient,
  { values, io, deadline, signal }: CommandContext,
  dryRun: boolean,
): Promise<number> {
  await refuseLockedVm(deadline, qmp, null);
  const { disks } = await queryDisks(qmp);
  const ours = disks.flatMap((disk) =>
    disk.bitmaps.filter(({ name }) => isBackupBitmap(name, values.uuid))
      .map(({ name }) => ({ disk: disk.name, node: disk.node, bitmap: name }))
  );
  for (const { disk, node, bitmap } of ours) {
    signal.throwIfAborted();
    if (!dryRun) await removeBitmap(qmp, node, bitmap);
    io.stdout(
      values.json
        ? jsonLine("removed", { disk, bitmap })
        : `Removing bitmap: ${printable(bitmap)}\n`,
    );
  }
  if (ours.length === 0) log.info("This VM's disks have no bitmaps made by qmpbackup");
  return ours.length;
}
