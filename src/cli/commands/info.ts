import { resolve } from "@std/path";
import { exists } from "../../catalog/durable.ts";
import { readTarget } from "../../catalog/target.ts";
import { UsageError } from "../../errors.ts";
import { QmpClient } from "../../qmp/client.ts";
import { queryDisks } from "../../vm/disks.ts";
import { queryOutside } from "../../vm/outside.ts";
import { backupsText, bitmapsJson, diskJson, disksText, jsonLine } from "../report.ts";
import type { CommandContext } from "./context.ts";
import { qmpTarget } from "./qmp_target.ts";

/** `qmpbackup info`. Takes no lock and changes nothing. */
export async function info(context: CommandContext): Promise<number> {
  return await (context.values.show === "backups" ? infoBackups(context) : infoVm(context));
}

async function infoBackups({ values, io }: CommandContext): Promise<number> {
  if (values.dir === undefined) throw new UsageError("--show backups needs --dir");
  const target = await readTarget(resolve(values.dir));
  if (!await exists(target.path)) throw new UsageError(`"${target.path}" does not exist`);
  if (!target.hasRecords) throw new UsageError(`"${target.path}" holds no records of backups`);
  if (!values.json) {
    io.stdout(backupsText(target));
    return 0;
  }
  for (const run of target.runs) io.stdout(jsonLine("run", run));
  io.stdout(jsonLine("summary", { chain: target.chainId, runs: target.runs.length }));
  return 0;
}

async function infoVm({ values, io }: CommandContext): Promise<number> {
  const { socket, qmpOptions } = qmpTarget(values);
  await using qmp = await QmpClient.connect(socket, qmpOptions);
  const { disks, leftOut: unfit } = await queryDisks(qmp);
  const leftOut = [...unfit, ...await queryOutside(qmp)];
  const bitmaps = bitmapsJson(disks);
  if (values.json) {
    for (const disk of bitmaps) io.stdout(jsonLine("disk", disk));
    io.stdout(jsonLine("summary", { disks: disks.map(diskJson), leftOut }));
  } else if (values.show === "bitmaps") {
    io.stdout(JSON.stringify(bitmaps, null, 2) + "\n");
  } else {
    io.stdout(disksText(disks, leftOut));
  }
  return 0;
}
