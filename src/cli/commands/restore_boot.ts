import { getLogger } from "@logtape/logtape";
import { basename, join, relative, resolve } from "@std/path";
import { placeOf } from "../../attach/attach.ts";
import { hasIsa } from "../../boot/command.ts";
import { boot, type Booted } from "../../boot/boot.ts";
import { BOOT_HEAD, type BootResult, writeBootResult } from "../../boot/result.ts";
import type { SignOfLife } from "../../boot/wait.ts";
import { messageOf, UsageError } from "../../errors.ts";
import type { Deadline } from "../../fs/deadline.ts";
import { readSavedFiles } from "../../repo/saved.ts";
import { type TpmState, tpmStateIn } from "../../repo/tpm_state.ts";
import type { DiskRecord, RunRecord } from "../../repo/record.ts";
import { choosePoints } from "../../restore/choose_points.ts";
import { type RestorePoint, runsOf } from "../../restore/points.ts";
import type { Values } from "../args/parse.ts";
import { bootMetricsText, tryToWriteMetrics } from "../metrics.ts";
import { bootedText } from "../output/booted.ts";
import { jsonLine } from "../output/report.ts";
import type { CommandContext } from "./context.ts";
import { keyFileOf } from "./key_file.ts";
import { timeoutMsOf } from "./qmp_target.ts";

const log = getLogger(["qmpbackup", "boot"]);

/** How long a guest may take. */
const DEFAULT_TIMEOUT_SECONDS = 300;

/** `qmpbackup restore test`. */
export async function restoreTest(
  { values, io, deadline, signal }: CommandContext,
): Promise<number> {
  const { until = null, filter, json } = values;
  const waitFor = signOfLife(values);
  const timeoutMs = timeoutMsOf("timeout", values.timeout ?? DEFAULT_TIMEOUT_SECONDS);
  const choice = { until, allowMissing: values["allow-missing"] ?? false };
  const dir = resolve(values.dir ?? ".");
  const { points, warnings } = await choosePoints(deadline, dir, choice, filter);
  for (const warning of warnings) log.warn("{warning}", { warning });
  const [first] = points as [RestorePoint, ...RestorePoint[]];
  const run = (await runsOf(deadline, points)).find(({ id }) => id === first.runId);
  if (!run?.machine) {
    log.warn(
      "No record says what the VM was: it gets QEMU's default firmware, memory and disk buses " +
        "(--firmware and --memory change that)",
    );
  }
  if (waitFor.kind === "exit" && !hasIsa(run?.machine?.arch ?? "x86_64")) {
    throw new UsageError("A VM of this kind has no ports: use --expect instead of --wait-for exit");
  }
  const started = new Date();
  const booted = await boot(deadline, {
    points,
    diskNames: points.map((point) => rowOf(run, point)?.name ?? point.disk),
    machine: run?.machine ?? null,
    firmware: values.firmware === undefined ? null : resolve(values.firmware),
    tpmState: await tpmStateOf(deadline, first, run),
    memoryBytes: values.memory ?? null,
    accel: values.accel ?? null,
    keyFile: await keyFileOf(deadline, values),
    waitFor,
    timeoutMs,
    screenshot: values.screenshot === undefined ? null : resolve(values.screenshot),
    host: Deno.hostname(),
  }, signal);
  const place = placeOf(first);
  const result: BootResult = {
    ...BOOT_HEAD,
    ...{ started: started.toISOString(), runId: first.runId },
    pointInTime: new Date(first.timeMs).toISOString(),
    images: points.map((point) => relative(place, point.layers().at(-1)?.path ?? "")),
    ...{ booted: booted.booted, waitedFor: waitFor.kind, seconds: booted.seconds },
    ...{ reason: booted.reason, host: Deno.hostname(), qemu: booted.qemu },
  };
  const stored = await tryToStore(deadline, place, result);
  const vm = run?.vm.name || basename(place);
  const file = values["metrics-file"];
  if (file !== undefined) {
    const boot = { vm, target: place, result };
    await tryToWriteMetrics(deadline, file, (before) => bootMetricsText(boot, before));
  }
  const { serialTail, screenshot } = booted;
  io.stdout(
    json
      ? jsonLine("summary", summaryOf(result, { serialTail, screenshot, stored, warnings }))
      : bootedText(result, booted),
  );
  return result.booted ? 0 : 1;
}

/** What was saved of the VM's TPM; null where it had none, or nothing was saved. */
async function tpmStateOf(
  deadline: Deadline,
  { target }: RestorePoint,
  run: RunRecord | undefined,
): Promise<TpmState | null> {
  if (target === null || !run?.machine?.tpms.length) return null;
  return tpmStateIn(await readSavedFiles(deadline, target, run));
}

function signOfLife({ expect, "wait-for": waitFor }: Values): SignOfLife {
  if (expect !== undefined && waitFor !== undefined) {
    throw new UsageError("--expect and --wait-for don't go together: name one sign of life");
  }
  return expect === undefined ? { kind: waitFor ?? "agent" } : { kind: "text", text: expect };
}

function rowOf(run: RunRecord | undefined, point: RestorePoint): DiskRecord | undefined {
  return run?.disks.find(({ folder, file }) =>
    folder === point.folder && basename(file) === point.name
  );
}

function summaryOf(
  { format: _f, version: _v, ...result }: BootResult,
  more: Pick<Booted, "serialTail" | "screenshot"> & { stored: boolean; warnings: string[] },
) {
  return { state: result.booted ? "booted" : "failed", ...result, ...more };
}

async function tryToStore(
  deadline: Deadline,
  place: string,
  result: BootResult,
): Promise<boolean> {
  try {
    await writeBootResult(deadline, place, result);
    return true;
  } catch (error) {
    log.warn("The result can't be kept in {folder}: {words}", {
      folder: join(place, "_qmpbackup"),
      words: messageOf(error),
    });
    return false;
  }
}
