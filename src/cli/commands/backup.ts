import { getLogger } from "@logtape/logtape";
import { join, resolve } from "@std/path";
import { backUp } from "../../backup/backup.ts";
import type { BackupRequest } from "../../backup/request.ts";
import { isChainId } from "../../catalog/names.ts";
import { UsageError } from "../../errors.ts";
import { parseAddress } from "../../wire/address.ts";
import { fileMode } from "../file_mode.ts";
import type { Values } from "../parse.ts";
import { backupText, jsonLine } from "../report.ts";
import { localTime } from "../text.ts";
import { VERSION } from "../version.ts";
import type { CommandContext } from "./context.ts";
import { qmpTarget, timeoutMsOf } from "./qmp_target.ts";

/** The exit code of a run that is done, but not as asked for, under `--strict`. */
const WARNED = 3;

const log = getLogger(["qmpbackup", "backup"]);

/** `qmpbackup backup`. */
export async function backup({ values, io, progress, signal }: CommandContext): Promise<number> {
  const record = await backUp(requestOf(values), {
    ...qmpTarget(values),
    agentSocket: agentSocketOf(values),
    agentTimeoutMs: timeoutMsOf("agent-timeout", values["agent-timeout"] ?? 10),
    signal,
    toolVersion: VERSION,
    onPlan: ({ disks }) => {
      for (const { disk, level, reason, isFleeceOnTarget } of disks) {
        log.info("Disk {name}: {level} ({reason})", { name: disk.name, level, reason });
        if (!isFleeceOnTarget) continue;
        log.info(
          "What the guest overwrites on {name} is kept on the target meanwhile: name a faster place " +
            "with --fleece-dir if its writes must not wait for that",
          { name: disk.name },
        );
      }
    },
    onProgress: ({ disk }, doneBytes, totalBytes) =>
      progress.update(disk.name, doneBytes, totalBytes),
  });
  progress.hide();
  for (const warning of record.warnings) log.warn("{warning}", { warning });
  io.stdout(values.json ? jsonLine("summary", record) : backupText(record));
  if (record.state !== "done") return 1;
  return values.strict && record.warnings.length > 0 ? WARNED : 0;
}

function requestOf(values: Values): BackupRequest {
  const { include = [], exclude = [], uuid = null } = values;
  if (include.length > 0 && exclude.length > 0) {
    throw new UsageError("--include and --exclude don't go together: name the disks one way");
  }
  if (uuid !== null && !isChainId(uuid)) {
    throw new UsageError(`--uuid "${uuid}": only letters, digits, ".", "_" and "-", 128 at most`);
  }
  const target = resolve(values.target ?? ".");
  return {
    level: values.level ?? "auto",
    mode: fileMode(values.mode),
    target: values.monthly ? join(target, monthOf(new Date())) : target,
    include,
    exclude,
    includeRaw: values["include-raw"] ?? false,
    uuid,
    speedLimitBytesPerSecond: values["speed-limit"] ?? 0,
    compress: values.compress ?? false,
    onLostBitmap: values["on-lost-bitmap"] ?? "full",
    fleeceDir: values["fleece-dir"] === undefined ? null : resolve(values["fleece-dir"]),
    quiesce: values.quiesce ?? "no",
    pause: values.pause ?? false,
    cbwTimeoutSeconds: values["cbw-timeout"] ?? null,
    directTarget: values["blockdev-disable-cache"] ?? false,
    targetAio: values["blockdev-aio"] ?? null,
    subdir: !values["no-subdir"],
    timestamp: !values["no-timestamp"],
    symlink: !values["no-symlink"],
    stallTimeoutMs: timeoutMsOf("stall-timeout", values["stall-timeout"] ?? 300),
    removeDelayMs: (values["remove-delay"] ?? 0) * 1000,
  };
}

/** `YYYY-MM`, local time: a chain a month. */
function monthOf(date: Date): string {
  return localTime(date).slice(0, "YYYY-MM".length);
}

function agentSocketOf(values: Values) {
  const path = values["agent-socket"];
  if (path !== undefined) return parseAddress(path);
  if (values.quiesce) throw new UsageError("--quiesce needs --agent-socket");
  return null;
}
