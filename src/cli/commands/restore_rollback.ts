import { getLogger } from "@logtape/logtape";
import { resolve } from "@std/path";
import { WARNED } from "../../errors.ts";
import type { BackupRequest } from "../../plan/request.ts";
import { rollBack, type RollbackRequest } from "../../rollback/rollback.ts";
import { fileMode } from "../args/file_mode.ts";
import type { Values } from "../args/parse.ts";
import { jsonLine } from "../output/report.ts";
import { rolledBackText } from "../output/rolled_back.ts";
import { VERSION } from "../version.ts";
import type { CommandContext } from "./context.ts";
import { ensureQmpSocket, qmpTarget, timeoutMsOf } from "./qmp_target.ts";

const log = getLogger(["qmpbackup", "rollback"]);

/** `qmpbackup restore rollback`. */
export async function restoreRollback(
  { values, io, progress, deadline, signal }: CommandContext,
): Promise<number> {
  await ensureQmpSocket(values);
  const rollback = await rollBack(requestOf(values), {
    ...qmpTarget(values),
    ...{ agentSocket: null, agentTimeoutMs: 0, toolVersion: VERSION, keep: null, isDiff: false },
    ...{ deadline, signal },
    onPlan: ({ disks }) => {
      for (const { disk: { name }, level, reason } of disks) {
        log.info("Safety backup of {name}: {level} ({reason})", { name, level, reason });
      }
    },
    onBegin: () => Promise.resolve(),
    onProgress: ({ disk }, doneBytes, totalBytes) =>
      progress.update(disk.name, doneBytes, totalBytes),
    onFail: ({ disk }) => progress.fail(disk.name),
    onWrite: (disk, doneBytes, totalBytes) => progress.update(disk, doneBytes, totalBytes),
  });
  progress.end();
  for (const warning of rollback.warnings) log.warn("{warning}", { warning });
  if (values.json) io.stdout(jsonLine("summary", rollback));
  else if (!values.quiet) io.stdout(rolledBackText(rollback, io.width()));
  return values.strict && rollback.warnings.length > 0 ? WARNED : 0;
}

function requestOf(values: Values): RollbackRequest {
  return {
    until: values.until ?? "",
    include: values.include ?? [],
    allowMissing: values["allow-missing"] ?? false,
    reset: values.reset ?? false,
    safetyBackup: !values["no-safety-backup"],
    dryRun: values["dry-run"] ?? false,
    skipCheck: values["skip-check"] ?? false,
    bytesPerSecond: values["rate-limit"] ?? 0,
    backup: safetyBackupOf(values),
  };
}

/** An increment of each disk; where the bitmap was lost, the whole disk is compared with the last backup. */
function safetyBackupOf(values: Values): BackupRequest {
  return {
    ...{ level: "auto", fullEvery: null, onLostBitmap: "compare", compress: null, uuid: null },
    ...{ encrypt: false, keyFile: null },
    ...{ mode: fileMode(values.mode), target: resolve(values.dir ?? "."), monthly: false },
    ...{ include: [], exclude: [], includeRaw: false, save: [] },
    ...{ speedLimitBytesPerSecond: 0, cbwTimeoutSeconds: null },
    fleeceDir: values["fleece-dir"] === undefined ? null : resolve(values["fleece-dir"]),
    ...{ quiesce: "no", pause: false, directTarget: false, targetAio: null },
    ...{ subdir: true, timestamp: true, symlink: false, verify: false, digest: true },
    stallTimeoutMs: timeoutMsOf("stall-timeout", values["stall-timeout"] ?? 300),
    removeDelayMs: 0,
  };
}
