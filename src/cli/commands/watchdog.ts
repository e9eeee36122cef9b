import { getLogger } from "@logtape/logtape";
import { delay } from "@std/async/delay";
import { WATCHDOG_DISMISSED, WATCHDOG_READY } from "../../recovery/watchdog.ts";
import { QmpClient } from "../../qmp/client.ts";
import { recoverGuest } from "../../recovery/order.ts";
import { holderOfVm } from "../../vm/lock.ts";
import { ConnectionError } from "../../wire/address.ts";
import type { Values } from "../args/parse.ts";
import type { CommandContext } from "./context.ts";
import { qmpTarget, thawOf } from "./qmp_target.ts";

const log = getLogger(["qmpbackup", "guard"]);

/** The connections of the killed run may take a while to close, and the next run may be first. */
const PATIENCE_MS = 60_000;
const RETRY_MS = 200;

/** `qmpbackup guard`: see `recovery/watchdog.ts`. It does not heed signals: it ends when its run does. */
export async function watchdog({ values, io }: CommandContext): Promise<number> {
  io.stdout(`${WATCHDOG_READY}\n`);
  const told = await new Response(Deno.stdin.readable).text();
  if (told === WATCHDOG_DISMISSED) return 0;
  // This clock is not set by anybody.
  const giveUp = performance.now() + PATIENCE_MS;
  while (true) {
    try {
      await letGo(values);
      return 0;
    } catch (error) {
      if (!(error instanceof ConnectionError) || performance.now() > giveUp) throw error;
      await delay(RETRY_MS);
    }
  }
}

async function letGo(values: Values): Promise<void> {
  const { socket, qmpOptions } = qmpTarget(values);
  await using qmp = await QmpClient.connect(socket, qmpOptions);
  // If another run has locked the VM, it has let the guest go on. It may have stopped the guest itself now.
  if ((await holderOfVm(qmp))?.run !== values.run) return;
  log.warn("The run {run} ended while the guest was stopped or frozen: letting the guest go on", {
    run: values.run,
  });
  await recoverGuest(qmp, { thaw: thawOf(values) });
}
