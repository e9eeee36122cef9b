import { getLogger } from "@logtape/logtape";
import { resolve } from "@std/path";
import { messageOf } from "../../errors.ts";
import { type Deadline, HangingError } from "../../fs/deadline.ts";
import { requireQemuImg } from "../../qemu_img/qemu_img.ts";
import { findBackups } from "../../verify/find.ts";
import { writeResult } from "../../verify/results.ts";
import { dayOf, parseSubset } from "../../verify/subset.ts";
import { type Verified, verify } from "../../verify/verify.ts";
import { tryToWriteMetrics, verifyMetricsText } from "../metrics.ts";
import { jsonLine } from "../output/report.ts";
import { damageJson, verifiedText } from "../output/verify_report.ts";
import { VERSION } from "../version.ts";
import type { CommandContext } from "./context.ts";
import { keyFileOf } from "./key_file.ts";

const log = getLogger(["qmpbackup", "verify"]);

/** `qmpbackup restore verify`. Takes no lock, and changes no backup. */
export async function restoreVerify(context: CommandContext): Promise<number> {
  const { values, io, progress, deadline, signal } = context;
  const subset = values.subset === undefined ? null : parseSubset(values.subset);
  await requireQemuImg();
  const keyFile = await keyFileOf(deadline, values);
  const all: Verified[] = [];
  for (const backups of await findBackups(deadline, resolve(values.dir ?? "."), values.filter)) {
    const verified = await verify(backups, {
      deadline,
      subset,
      day: dayOf(new Date()),
      toolVersion: VERSION,
      keyFile,
      signal,
      onProgress: (disk, doneBytes, totalBytes) => progress.update(disk, doneBytes, totalBytes),
    });
    all.push(verified);
    progress.hide();
    for (const warning of verified.warnings) log.warn("{warning}", { warning });
    const isStored = await tryToStore(deadline, verified);
    if (!values.json) io.stdout(verifiedText(verified));
    else {
      for (const damage of verified.result.damages) {
        io.stdout(jsonLine("damage", damageJson(verified, damage)));
      }
      const { target, vm, warnings, result: { format: _f, version: _v, ...result } } = verified;
      io.stdout(jsonLine("verified", { target, vm, ...result, warnings, stored: isStored }));
    }
  }
  const isSound = all.every(({ result }) => result.damages.length === 0);
  const file = values["metrics-file"];
  if (file !== undefined) {
    const metrics = metricsOf(all);
    await tryToWriteMetrics(deadline, file, (before) => verifyMetricsText(metrics, before));
  }
  if (values.json) io.stdout(jsonLine("summary", summaryOf(all, isSound)));
  return isSound ? 0 : 1;
}

function summaryOf(all: Verified[], isSound: boolean) {
  const sum = (of: (one: Verified) => number) => all.reduce((total, one) => total + of(one), 0);
  return {
    state: isSound ? "ok" : "damaged",
    targets: all.length,
    images: sum(({ result }) => result.images),
    points: sum(({ result }) => result.points),
    readBytes: sum(({ result }) => result.readBytes),
    damages: sum(({ result }) => result.damages.length),
    spoiled: sum(({ spoiled }) => spoiled.length),
  };
}

/** A target may be read-only: then nobody is told later. */
async function tryToStore(deadline: Deadline, { target, result }: Verified): Promise<boolean> {
  try {
    await writeResult(deadline, target, result);
    return true;
  } catch (error) {
    if (error instanceof HangingError) throw error;
    log.warn("The result could not be stored in {target}, and info does not show it: {words}", {
      target,
      words: messageOf(error),
    });
    return false;
  }
}

function metricsOf(all: Verified[]) {
  return all.map(({ target, vm, result: { finished, damages, spoiled } }) => ({
    target,
    vm,
    finished: new Date(finished),
    damages: damages.length,
    spoiledPoints: spoiled.length,
  }));
}
