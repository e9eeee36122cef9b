/**
 * Keeps a live migration away from a VM while a backup has nodes in its disks' way: see `vm/migration.ts`.
 *
 * @module
 */

import { dirname } from "@std/path";
import { type Deadline, HangingError } from "../fs/deadline.ts";
import { Failure, messageOf } from "../errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import type { Plan } from "../plan/plan.ts";
import { addMigrationBlocker } from "../vm/migration.ts";
import { isOurNode } from "../vm/names.ts";
import { nodeNames, removeNode } from "../vm/switch_node.ts";
import type { UndoStack } from "./undo.ts";

/**
 * Keeps a migration away until all that is put into QEMU now is gone. The file for that has the name of
 * a fleece that is not there yet: so it lies where QEMU can open it, and a later run finds it.
 *
 * @returns Warnings.
 * @throws {Failure} If the VM is being migrated.
 */
export async function keepMigrationAway(
  { qmp, deadline }: { qmp: QmpClient; deadline: Deadline },
  plan: Plan,
  undo: UndoStack,
): Promise<string[]> {
  const { disks: [disk], migrationBlocker: node, request: { mode } } = plan;
  if (!disk) return [];
  undo.push("let the VM be migrated again", async () => {
    // What is still in the guest's way is named by its own step.
    if (undo.leftovers.length > 0) {
      const ours = (await nodeNames(qmp)).filter(isOurNode);
      if (ours.some((name) => name !== node)) return;
    }
    await deadline.probe(dirname(disk.fleeceFile));
    await removeNode(qmp, node);
  });
  try {
    await addMigrationBlocker(deadline, qmp, node, disk.fleeceFile, mode);
    return [];
  } catch (error) {
    if (!isOfBlocker(error)) throw error;
    return [
      "A live migration can't be blocked during this backup, and the guest may stop if both run " +
      `at once: don't migrate the VM until the backup has ended (${messageOf(error)})`,
    ];
  }
}

/** QEMU lacks the formats or can't open the file, or that can't be made: nothing but the blocker fails. */
function isOfBlocker(error: unknown): boolean {
  const isOfStorage = error instanceof QmpCommandError || error instanceof HangingError;
  return isOfStorage || !(error instanceof Failure);
}
