import { getLogger } from "@logtape/logtape";
import { resolve } from "@std/path";
import { backUp } from "../../backup/backup.ts";
import type { BackupRequest } from "../../backup/request.ts";
import { isChainId } from "../../catalog/names.ts";
import { UsageError } from "../../errors.ts";
import { parseAddress } from "../../wire/address.ts";
import type { Values } from "../parse.ts";
import { backupText, jsonLine } from "../report.ts";
import { VERSION } from "../version.ts";
import type { CommandContext } from "./context.ts";
import { qmpTarget, timeoutMsOf } from "./qmp_target.ts";

const log = getLogger(["qmpbackup", "backup"]);

/** `qmpbackup backup`. */
export async function backup({ values, io, progress, signal }: CommandContext): Promise<number> {
  const record = await backUp(requestOf(values), {
    ...qmpTarget(values),
    agentSocket: agentSocketOf(values),
    agentTimeoutMs: timeoutMsOf("agent-timeout", values["agent-timeout"] ?? 10),
    quiesce: values.quiesce ?? false,
    signal,
    toolVersion: VERSION,
    onPlan: ({ disks }) => {
      for (const { disk, level, reason } of disks) {
        log.info("Disk {name}: {level} ({reason})", { name: disk.name, level, reason });
      }
    },
    onProgress: ({ disk }, job) =>
      progress.update(disk.name, job["current-progress"], job["total-progress"]),
  });
  progress.hide();
  for (const warning of record.warnings) log.warn("{warning}", { warning });
  io.stdout(values.json ? jsonLine("summary", record) : backupText(record));
  return record.state === "done" ? 0 : 1;
}

function requestOf(values: Values): BackupRequest {
  const { include = [], exclude = [], uuid = null } = values;
  if (include.length > 0 && exclude.length > 0) {
    throw new UsageError("--include and --exclude don't go together: name the disks one way");
  }
  if (uuid !== null && !isChainId(uuid)) {
    throw new UsageError(`--uuid "${uuid}": only letters, digits, ".", "_" and "-", 128 at most`);
  }
  return {
    level: values.level ?? "auto",
    target: resolve(values.target ?? "."),
    include,
    exclude,
    includeRaw: values["include-raw"] ?? false,
    uuid,
    speedLimitBytesPerSecond: values["speed-limit"] ?? 0,
    compress: values.compress ?? false,
    fleeceDir: values["fleece-dir"] === undefined ? null : resolve(values["fleece-dir"]),
  };
}

function agentSocketOf(values: Values) {
  const path = values["agent-socket"];
  if (path !== undefined) return parseAddress(path);
  if (values.quiesce) throw new UsageError("--quiesce needs --agent-socket");
  return null;
}
