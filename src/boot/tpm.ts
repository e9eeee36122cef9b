/**
 * A TPM for the VM that is booted, with a state that is thrown away.
 *
 * Source: swtpm(8); swtpm's tpm_ioctl.h: the control socket takes a command's number and answers.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { join } from "@std/path";
import { brief, Failure, messageOf } from "../errors.ts";
import { createFile, makeFolder, OWNER_ONLY } from "../fs/create.ts";
import type { Deadline } from "../fs/deadline.ts";
import { removeFile, removeFolders } from "../fs/durable.ts";
import { listFolder } from "../fs/files.ts";
import { swtpmCommand, type TpmFolder } from "../machine/tpm.ts";
import { MissingProgramError, runProgram } from "../process/run.ts";
import type { TpmState } from "../repo/tpm_state.ts";
import { connect } from "../wire/address.ts";

const log = getLogger(["qmpbackup", "boot"]);

const INSTALL = "Debian: swtpm";
const CONNECT_TIMEOUT_MS = 10_000;
/** CMD_SHUTDOWN. */
const SHUTDOWN = new Uint8Array([0, 0, 0, 3]);

export interface StartedTpm extends AsyncDisposable {
  folder: TpmFolder;
}

/**
 * Starts swtpm. Ending it removes its state.
 *
 * @param state Null is a new TPM.
 * @returns Null, with a warning, where swtpm is not installed: most guests boot without a TPM.
 */
export async function startTpm(
  deadline: Deadline,
  folder: string,
  state: TpmState | null,
): Promise<StartedTpm | null> {
  const path = join(folder, "swtpm"), socket = join(path, "socket");
  const tpm: TpmFolder = { path, socket, version: state?.version ?? "2.0" };
  await using undo = new AsyncDisposableStack();
  await makeFolder(deadline, path, OWNER_ONLY);
  undo.defer(async () => {
    for (const { name } of await listFolder(deadline, path)) {
      await removeFile(deadline, join(path, name));
    }
    await removeFolders(deadline, [path]);
  });
  if (state) await createFile(deadline, join(path, state.name), OWNER_ONLY, state.contents);
  try {
    const [program = "", ...args] = swtpmCommand(tpm);
    const { code, stdout, stderr } = await runProgram(program, args, { install: INSTALL });
    if (code !== 0) {
      throw new Failure(`swtpm can't start the VM's TPM: ${brief((stderr || stdout).trim())}`);
    }
  } catch (error) {
    if (!(error instanceof MissingProgramError)) throw error;
    log.warn("The VM had a TPM, and is booted without one: {words}", { words: messageOf(error) });
    return null;
  }
  undo.defer(() => stop(socket));
  const stack = undo.move();
  return { folder: tpm, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** It ends with QEMU, but not if QEMU did not come as far as to use it. */
async function stop(socket: string): Promise<void> {
  try {
    using conn = await connect({ transport: "unix", path: socket }, "TPM", CONNECT_TIMEOUT_MS);
    await conn.write(SHUTDOWN);
    await conn.read(new Uint8Array(4));
  } catch (error) {
    log.debug("swtpm has ended: {words}", { words: messageOf(error) });
  }
}
