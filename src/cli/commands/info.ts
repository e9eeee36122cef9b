import { UsageError } from "../../errors.ts";
import { queryDisks } from "../../vm/disks.ts";
import { queryDevices } from "../../vm/devices.ts";
import { queryOutside } from "../../vm/outside.ts";
import { connectVm } from "../../vm/socket_holder.ts";
import { FLAGS } from "../args/flags.ts";
import type { Values } from "../args/parse.ts";
import { bitmapsJson, diskJson, disksText, jsonLine } from "../output/report.ts";
import { printableJson } from "../output/text.ts";
import type { CommandContext } from "./context.ts";
import { list } from "./list.ts";
import { ensureQmpSocket, qmpTarget } from "./qmp_target.ts";

/** `qmpbackup info`. Takes no lock and changes nothing. */
export async function info(context: CommandContext): Promise<number> {
  const show = shown(context.values);
  if (show === "backups") return await list(context);
  for (const flag of ["last", "disk", "all", "max-age", "nagios", "html"] as const) {
    if (context.values[flag] !== undefined) {
      throw new UsageError(`--${flag} is for backups: name their directory with --dir`);
    }
  }
  return await infoVm(context, show);
}

/** What is to be shown: without `--show` what the other flags are about. Pure. */
export function shown({ show, socket, dir }: Values): NonNullable<Values["show"]> {
  if (show !== undefined) return show;
  const choices = FLAGS.show.choices.join(", ");
  if (socket !== undefined && dir !== undefined) {
    throw new UsageError(`Say what to show, with --show: one of ${choices}`);
  }
  if (socket !== undefined) return "blockdev";
  if (dir !== undefined) return "backups";
  throw new UsageError(
    `"info" needs --socket, for a VM's disks, or --dir, for backups; --show takes ${choices}`,
  );
}

async function infoVm(
  { values, io, deadline }: CommandContext,
  show: "blockdev" | "bitmaps",
): Promise<number> {
  const { socket, qmpOptions } = qmpTarget(values);
  await ensureQmpSocket(values);
  await using qmp = await connectVm(deadline, socket, qmpOptions);
  const devices = await queryDevices(qmp);
  const { disks, leftOut: unfit } = await queryDisks(qmp, { devices });
  const leftOut = [...unfit, ...await queryOutside(qmp, devices)];
  const bitmaps = bitmapsJson(disks);
  if (values.json) {
    for (const disk of bitmaps) io.stdout(jsonLine("disk", disk));
    io.stdout(jsonLine("summary", { disks: disks.map(diskJson), leftOut }));
  } else if (show === "bitmaps") {
    io.stdout(printableJson(bitmaps, 2) + "\n");
  } else {
    io.stdout(disksText(disks, leftOut, io.width()));
  }
  return 0;
}
