/**
 * What the state of a VM (`query-status`) means for the backup of its disks. Pure.
 *
 * Source: `RunState` of the QEMU QMP Reference Manual.
 *
 * @module
 */

import { Failure } from "../errors.ts";

/** The disks can be backed up: the guest writes through QEMU, or its disks do not change. */
const POSSIBLE = [
  ...["running", "paused", "prelaunch"],
  ...["suspended", "shutdown", "guest-panicked", "io-error", "watchdog", "internal-error", "debug"],
];

/** Why not, and what to do. */
const REMEDIES: Readonly<Record<string, string>> = {
  inmigrate:
    "it waits for a migration to arrive. Back it up where it runs now, or here once it has arrived",
  "finish-migrate":
    "its migration is about to end. Back it up where it runs then, or here if the migration fails",
  postmigrate:
    "it was migrated, and its disks may be in use by the other side. Back it up where it runs now; if it " +
    "runs nowhere else, resume it here first (QMP command cont)",
  "save-vm": "its state is being saved. Run again when that is done",
  "restore-vm": "a saved state is being loaded. Run again when that is done",
  colo: "COLO replicates it. Back up the other side, or run again after a failover",
  preconfig: "it is not set up yet. Let QEMU go on first (QMP command x-exit-preconfig)",
};

/**
 * Refuses a VM in a state in which its disks can't be backed up.
 *
 * @throws {Failure} With what to do.
 */
export function refuseRunState(state: string) {
  if (POSSIBLE.includes(state)) return;
  const remedy = REMEDIES[state] ?? "this qmpbackup does not know it. Stop or resume the VM first";
  throw new Failure(`The VM is in the state "${state}": ${remedy}`);
}

/** Whether the guest has shut down: its file systems are unmounted, so that there is nothing to freeze. */
export function isShutDown(state: string): boolean {
  return state === "shutdown";
}

/** The sentence that says why the guest's agent can't answer; null where it may. */
export function silenceOf(state: string): string | null {
  if (["running", "paused", "prelaunch"].includes(state)) return null;
  const remedy = state === "suspended"
    ? 'wake it up first (QMP command "system_wakeup")'
    : "resume or reset it first, or leave out --quiesce";
  return `The VM is in the state "${state}", in which its guest agent can't answer: ${remedy}`;
}
