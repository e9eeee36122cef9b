import { assertEquals } from "@std/assert";
import { QmpClient } from "../../src/qmp/client.ts";
import { queryTpms } from "../../src/qmp/queries.ts";
import { answer } from "../support/fake_qmp.ts";
import { serve } from "../support/fake_peer.ts";
import { tempDir } from "../support/temp_dir.ts";

async function tpmsOf(answers: Record<string, () => unknown>): Promise<string[]> {
  await using dir = await tempDir();
  const path = dir.join("qmp");
  await using _peer = serve(path, (peer) => answer(peer, answers));
  await using qmp = await QmpClient.connect({ transport: "unix", path }, { timeoutMs: 2_000 });
  return await queryTpms(qmp);
}

Deno.test("`queryTpms()` names the guest's TPMs, which no backup holds", async () => {
  const tpm = { id: "tpm0", model: "tpm-crb", options: { type: "emulator", data: {} } };
  assertEquals(await tpmsOf({ "query-tpm": () => [tpm] }), ["tpm0"]);
});

Deno.test("`queryTpms()` finds none where QEMU does not know the command", async () => {
  assertEquals(await tpmsOf({}), []);
});
