/**
 * Boots points in time in a VM without a network, and waits for a sign of life. What it writes goes into
 * overlays that are thrown away.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { join } from "@std/path";
import { attach, placeOf } from "../attach/attach.ts";
import { undo } from "../attach/detach.ts";
import { brief, Failure, UsageError } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import { exists, removeFile, removeFolders } from "../fs/durable.ts";
import { makeTempFolder } from "../fs/files.ts";
import { MissingProgramError, runProgram } from "../process/run.ts";
import { QmpClient } from "../qmp/client.ts";
import type { TpmState } from "../repo/tpm_state.ts";
import type { RestorePoint } from "../restore/points.ts";
import { bootCommand, type BootOptions, hasIsa } from "./command.ts";
import { takeScreenshot } from "./screenshot.ts";
import { openSerial } from "./serial.ts";
import { startTpm } from "./tpm.ts";
import { type SignOfLife, waitForLife } from "./wait.ts";

const log = getLogger(["qmpbackup", "boot"]);

export interface BootRequest extends Omit<BootOptions, "disks" | "sockets" | "tpm"> {
  points: readonly RestorePoint[];
  /** What the record calls each of their disks. */
  diskNames: readonly string[];
  /** What was saved of its TPM. */
  tpmState: TpmState | null;
  waitFor: SignOfLife;
  timeoutMs: number;
  /** Where a picture of the screen goes. */
  screenshot: string | null;
  /** This host's name. */
  host: string;
}

export interface Booted {
  booted: boolean;
  seconds: number;
  /** Why not; null if it did. */
  reason: string | null;
  /** QEMU's version. */
  qemu: string;
  /** The last lines on the serial console. */
  serialTail: string[];
  /** Where the picture is; null where there is none. */
  screenshot: string | null;
}

/** A guest may fill its overlays: this folder is not in memory. */
const OVERLAY_FOLDER = "/var/tmp";
const QMP_TIMEOUT_MS = 30_000;
const TAIL_LINES = 20;

/**
 * Boots points, all disks in one VM.
 *
 * @returns Whether the sign of life came in time.
 * @throws {Failure} If the VM can't be started, or an image is missing or was changed.
 */
export async function boot(
  deadline: Deadline,
  request: BootRequest,
  signal: AbortSignal,
): Promise<Booted> {
  const { points, diskNames, machine, host, screenshot } = request;
  await using stack = new AsyncDisposableStack();
  const folder = await makeTempFolder(deadline, OVERLAY_FOLDER);
  stack.defer(() => removeFolders(deadline, [folder]));
  const sockets = {
    agent: join(folder, "agent"),
    serial: join(folder, "serial"),
    exit: join(folder, "exit"),
  };
  stack.defer(async () => {
    // QEMU removes them where it ends as it should.
    for (const path of Object.values(sockets)) await removeFile(deadline, path);
  });
  const tpm = machine === null || machine.tpms.length === 0
    ? null
    : await startTpm(deadline, folder, request.tpmState);
  if (tpm) stack.use(tpm);
  const attachment = await attach(points, {
    ...{ kind: "test", folder, deadline, host, signal, keyFile: request.keyFile },
  });
  stack.defer(() => undo(deadline, placeOf(points[0] as RestorePoint), attachment));
  const qmpSocket = attachment.sockets?.qmp ?? "";
  const { programs, args, needs, leftOut } = bootCommand({
    ...request,
    keyFile: points.some(isEncrypted) ? request.keyFile : null,
    disks: attachment.disks.map(({ open }, i) => ({ name: diskNames[i] ?? "", path: open })),
    sockets: { ...sockets, qmp: qmpSocket },
    tpm: tpm?.folder ?? null,
  });
  for (const name of leftOut) {
    log.warn(
      'The UEFI variables "{name}" are left out: the firmware is not known, or has variables of its own. ' +
        "Name the code of UEFI with --firmware (OVMF_CODE…)",
      { name },
    );
  }
  await requireFiles(deadline, needs);
  await start(programs, args);
  signal.throwIfAborted();
  await using qmp = await QmpClient.connect({ transport: "unix", path: qmpSocket }, {
    timeoutMs: QMP_TIMEOUT_MS,
  });
  await using serial = await openSerial(sockets.serial);
  const started = performance.now();
  await using exit = hasIsa(machine?.arch ?? "x86_64") ? await openSerial(sockets.exit) : null;
  const lines = { serial, exit, agentSocket: sockets.agent };
  const life = waitForLife(qmp, lines, request, signal);
  await qmp.execute("cont");
  const reason = await life;
  const seconds = Math.round((performance.now() - started) / 100) / 10;
  const picture = screenshot === null
    ? null
    : await takeScreenshot(deadline, qmp, { folder, to: screenshot });
  return {
    booted: reason === null,
    ...{ seconds, reason, qemu: qmp.version },
    serialTail: serial.tail(TAIL_LINES),
    screenshot: picture,
  };
}

const isEncrypted = (point: RestorePoint) => point.layers().some((layer) => layer.isEncrypted);

async function requireFiles(deadline: Deadline, paths: readonly string[]) {
  for (const path of paths) {
    if (await exists(deadline, path)) continue;
    throw new UsageError(
      `The VM needs "${path}" to boot (its firmware or its kernel), which is not on this host: name its ` +
        "firmware with --firmware, or copy the file here",
    );
  }
}

/** Starts it in the background, stopped: this returns when its sockets are there. */
async function start(programs: readonly string[], args: readonly string[]) {
  for (const program of programs) {
    try {
      const install = "Debian: qemu-system-x86, or qemu-system-arm";
      const { code, stderr } = await runProgram(program, [...args, "-daemonize"], { install });
      if (code !== 0) throw new Failure(`QEMU can't start the VM: ${brief(stderr.trim())}`);
      if (stderr.trim() !== "") {
        log.debug("{program} says {words}", { program, words: brief(stderr) });
      }
      return;
    } catch (error) {
      if (!(error instanceof MissingProgramError) || program === programs.at(-1)) throw error;
    }
  }
}
