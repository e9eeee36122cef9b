import { getLogger } from "@logtape/logtape";
import { join, resolve } from "@std/path";
import { backUp, type BackupContext } from "../../backup/backup.ts";
import { type FullEvery, parseFullEvery } from "../../plan/full_every.ts";
import type { BackupRequest } from "../../plan/request.ts";
import { freeBytes } from "../../fs/files.ts";
import { isChainId } from "../../repo/layout.ts";
import type { RunRecord } from "../../repo/record.ts";
import { readFilesToSave } from "../../repo/saved.ts";
import { exitCodeOf, messageOf, StoppedError, UsageError, WARNED } from "../../errors.ts";
import { ConnectionError, parseAgentAddress } from "../../wire/address.ts";
import { keepRules } from "../args/keep_rules.ts";
import { fileMode } from "../args/file_mode.ts";
import { findHook, type Hook, runHook } from "../hooks.ts";
import { metricsText, tryToWriteMetrics } from "../metrics.ts";
import type { Values } from "../args/parse.ts";
import { backupText, jsonLine } from "../output/report.ts";
import { localTime } from "../../time.ts";
import { VERSION } from "../version.ts";
import type { CommandContext } from "./context.ts";
import { keyFileOf } from "./key_file.ts";
import { ensureQmpSocket, qmpTarget, timeoutMsOf } from "./qmp_target.ts";

const HOOK_TIMEOUT_SECONDS = 300;

const log = getLogger(["qmpbackup", "backup"]);

/** `qmpbackup backup`. */
export async function backup(context: CommandContext): Promise<number> {
  const { "metrics-file": file, strict = false } = context.values;
  const begun: Begun = { record: null };
  if (file === undefined) return await backUpBetweenHooks(context, begun);
  const started = new Date();
  const write = (exitCode: number) => {
    const metrics = {
      target: resolve(context.values.target ?? "."),
      started,
      finished: new Date(),
      exitCode,
      record: begun.record,
    };
    return tryToWriteMetrics(context.deadline, file, (before) => metricsText(metrics, before));
  };
  let exitCode: number;
  try {
    exitCode = await backUpBetweenHooks(context, begun);
  } catch (error) {
    await write(exitCodeOf(error));
    throw error;
  }
  const isWritten = await write(exitCode);
  return exitCode === 0 && strict && !isWritten ? WARNED : exitCode;
}

/** The record of the run, once it has begun; kept up to date. */
interface Begun {
  record: RunRecord | null;
}

/** How much the target's file system has left; null where that can't be told. */
async function freeOf({ deadline }: CommandContext, target: string): Promise<number | null> {
  return await freeBytes(deadline, target).catch(() => null);
}

async function backUpBetweenHooks(context: CommandContext, begun: Begun): Promise<number> {
  const { values, deadline, signal } = context;
  const seconds = values["hook-timeout"] ?? HOOK_TIMEOUT_SECONDS;
  if (seconds === 0) throw new UsageError("--hook-timeout must be 1 or more");
  const before = await findHook(deadline, "--before", values.before, seconds);
  const after = await findHook(deadline, "--after", values.after, seconds);
  const save = await readFilesToSave(deadline, (values.save ?? []).map((path) => resolve(path)));
  const keyFile = await keyFileOf(deadline, values);
  const request = { ...requestOf(values), save, keyFile };
  await tryToMakeSocket(values);
  let record: RunRecord;
  try {
    record = await backUp(request, {
      ...surroundingsOf(context),
      onBegin: async (draft) => {
        if (before) await runHook(before, draft, request.target, signal);
        begun.record = draft;
      },
    });
  } catch (error) {
    if (begun.record && after) {
      // It may have failed before it could be recorded.
      if (begun.record.state === "running") begun.record.state = "failed";
      const warnings = await tellAfter(after, begun.record, request.target, signal);
      for (const warning of warnings) log.warn("{warning}", { warning });
    }
    throw error;
  }
  if (after) record.warnings.push(...await tellAfter(after, record, request.target, signal));
  return report(record, request.target, await freeOf(context, request.target), context);
}

/** A VM that is off has no monitor either: that its socket can't be reached is this night's record. */
async function tryToMakeSocket(values: Values): Promise<void> {
  try {
    await ensureQmpSocket(values);
  } catch (error) {
    if (!(error instanceof ConnectionError)) throw error;
    log.warn("{words}", { words: messageOf(error) });
  }
}

/** Runs the hook, and returns a warning if it failed. */
async function tellAfter(
  hook: Hook,
  record: RunRecord,
  target: string,
  signal: AbortSignal,
): Promise<string[]> {
  try {
    // A signal that ended the run must not end the hook as well: it is to hear of that.
    await runHook(hook, record, target, signal.aborted ? new AbortController().signal : signal);
    return [];
  } catch (error) {
    const isStopped = error instanceof StoppedError;
    return [isStopped ? `"${hook.program}" (--after): ${error.message}` : messageOf(error)];
  }
}

function report(
  record: RunRecord,
  target: string,
  freeBytes: number | null,
  { values, io, progress }: CommandContext,
): number {
  progress.end();
  for (const warning of record.warnings) log.warn("{warning}", { warning });
  if (values.json) io.stdout(jsonLine("summary", record));
  else if (!values.quiet || record.state !== "done") {
    io.stdout(backupText(record, { target, freeBytes }, io.width()));
  }
  if (record.state !== "done") return 1;
  return values.strict && record.warnings.length > 0 ? WARNED : 0;
}

function surroundingsOf(
  { values, progress, deadline, signal }: CommandContext,
): Omit<BackupContext, "onBegin"> {
  return {
    ...qmpTarget(values),
    agentSocket: agentSocketOf(values),
    agentTimeoutMs: timeoutMsOf("agent-timeout", values["agent-timeout"] ?? 10),
    deadline,
    signal,
    toolVersion: VERSION,
    keep: keepRules(values),
    isDiff: values.level === "diff",
    onPlan: ({ disks }) => {
      for (const { disk, level, reason, isFleeceOnTarget } of disks) {
        log.info("Disk {name}: {level} ({reason})", { name: disk.name, level, reason });
        if (!isFleeceOnTarget) continue;
        log.info(
          "What the guest overwrites on {name} is kept on the target during the backup, and the " +
            "guest's writes wait for that: name faster storage with --fleece-dir",
          { name: disk.name },
        );
      }
    },
    onProgress: ({ disk }, doneBytes, totalBytes) =>
      progress.update(disk.name, doneBytes, totalBytes),
    onFail: ({ disk }) => progress.fail(disk.name),
  };
}

function requestOf(values: Values): Omit<BackupRequest, "save" | "keyFile"> {
  const { include = [], exclude = [], uuid = null } = values;
  if (include.length > 0 && exclude.length > 0) {
    throw new UsageError("--include and --exclude don't go together: use one of them");
  }
  if (uuid !== null && !isChainId(uuid)) {
    throw new UsageError(
      `--uuid takes letters, digits, ".", "_" and "-", 128 at most, not "${uuid}"`,
    );
  }
  const target = resolve(values.target ?? ".");
  return {
    level: values.level === "diff" ? "auto" : values.level ?? "auto",
    fullEvery: fullEveryOf(values),
    mode: fileMode(values.mode),
    target: values.monthly ? join(target, monthOf(new Date())) : target,
    monthly: values.monthly ?? false,
    include,
    exclude,
    includeRaw: values["include-raw"] ?? false,
    uuid,
    speedLimitBytesPerSecond: values["speed-limit"] ?? 0,
    compress: values.compress ?? null,
    encrypt: values.encrypt ?? false,
    onLostBitmap: values["on-lost-bitmap"] ?? "full",
    fleeceDir: values["fleece-dir"] === undefined ? null : resolve(values["fleece-dir"]),
    quiesce: values.quiesce ?? "no",
    pause: values.pause ?? false,
    cbwTimeoutSeconds: values["cbw-timeout"] ?? null,
    directTarget: disableCacheOf(values["blockdev-disable-cache"]),
    targetAio: values["blockdev-aio"] ?? null,
    subdir: !values["no-subdir"],
    timestamp: !values["no-timestamp"],
    symlink: !values["no-symlink"],
    verify: values.verify ?? false,
    digest: !values["no-digest"],
    stallTimeoutMs: timeoutMsOf("stall-timeout", values["stall-timeout"] ?? 300),
    removeDelayMs: (values["remove-delay"] ?? 0) * 1000,
  };
}

function disableCacheOf(asked: Values["blockdev-disable-cache"]): boolean | null {
  return asked === undefined ? null : asked === "yes";
}

function fullEveryOf({ "full-every": text, level }: Values): FullEvery | null {
  if (text === undefined) return null;
  if (level !== "auto" && level !== "diff") {
    throw new UsageError("--full-every goes with --level auto or diff only");
  }
  const rule = parseFullEvery(text);
  if (rule) return rule;
  throw new UsageError(
    `--full-every takes an age (30d), a number of increments (20) or ratio:1.0, not "${text}"`,
  );
}

/** `YYYY-MM`, local time: a chain a month. */
function monthOf(date: Date): string {
  return localTime(date).slice(0, "YYYY-MM".length);
}

function agentSocketOf(values: Values) {
  const path = values["agent-socket"];
  if (path !== undefined) return parseAgentAddress(path);
  if (values.quiesce) throw new UsageError("--quiesce needs --agent-socket");
  return null;
}
