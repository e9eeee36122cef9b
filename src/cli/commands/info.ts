import { resolve } from "@std/path";
import { exists } from "../../fs/durable.ts";
import { images } from "../../repo/chains.ts";
import { isFault, lookAtImages } from "../../repo/fingerprint.ts";
import { readTarget, type Target } from "../../repo/repository.ts";
import { UsageError } from "../../errors.ts";
import { queryDisks } from "../../vm/disks.ts";
import { queryOutside } from "../../vm/outside.ts";
import { connectVm } from "../../vm/socket_holder.ts";
import { FLAGS } from "../args/flags.ts";
import type { Values } from "../args/parse.ts";
import {
  backupsText,
  bitmapsJson,
  diskJson,
  disksText,
  type ImageStates,
  jsonLine,
  PRESENT,
  REPLACED,
  runJson,
} from "../output/report.ts";
import { printableJson } from "../output/text.ts";
import type { CommandContext } from "./context.ts";
import { qmpTarget } from "./qmp_target.ts";

/** `qmpbackup info`. Takes no lock and changes nothing. */
export async function info(context: CommandContext): Promise<number> {
  const show = shown(context.values);
  return show === "backups" ? await list(context) : await infoVm(context, show);
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

/** `qmpbackup list`, and `info --show backups`. */
export async function list({ values, io }: CommandContext): Promise<number> {
  if (values.dir === undefined) throw new UsageError("--show backups needs --dir");
  const target = await readTarget(resolve(values.dir));
  if (!await exists(target.path)) throw new UsageError(`"${target.path}" does not exist`);
  if (!target.hasRecords) throw new UsageError(`"${target.path}" holds no records of backups`);
  const states = await imageStates(target);
  if (!values.json) {
    io.stdout(backupsText(target, states));
    return 0;
  }
  for (const run of target.runs) io.stdout(jsonLine("run", runJson(run, states)));
  io.stdout(jsonLine("summary", { chain: target.chainId, runs: target.runs.length }));
  return 0;
}

/** How it stands with each image that a record promises. */
async function imageStates({ path, runs }: Target): Promise<ImageStates> {
  const all = images(runs).filter(({ disk }) => disk.result === "done");
  const newest = new Map(all.map(({ disk }) => [disk.file, disk]));
  const recorded = new Map(all.map(({ disk }) => [disk.file, newest.get(disk.file)?.fingerprint]));
  const seen = await lookAtImages(path, recorded);
  return new Map(all.map(({ disk }) => {
    // A later backup took its name and place (--no-timestamp).
    if (newest.get(disk.file) !== disk) return [disk, REPLACED];
    const look = seen.get(disk.file);
    return [disk, look && isFault(look) ? look : PRESENT];
  }));
}

async function infoVm(
  { values, io }: CommandContext,
  show: "blockdev" | "bitmaps",
): Promise<number> {
  const { socket, qmpOptions } = qmpTarget(values);
  await using qmp = await connectVm(socket, qmpOptions);
  const { disks, leftOut: unfit } = await queryDisks(qmp);
  const leftOut = [...unfit, ...await queryOutside(qmp)];
  const bitmaps = bitmapsJson(disks);
  if (values.json) {
    for (const disk of bitmaps) io.stdout(jsonLine("disk", disk));
    io.stdout(jsonLine("summary", { disks: disks.map(diskJson), leftOut }));
  } else if (show === "bitmaps") {
    io.stdout(printableJson(bitmaps, 2) + "\n");
  } else {
    io.stdout(disksText(disks, leftOut));
  }
  return 0;
}
