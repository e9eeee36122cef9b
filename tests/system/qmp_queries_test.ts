import { assertEquals, assertRejects } from "@std/assert";
import { QmpClient } from "../../src/qmp/client.ts";
import { queryJobs, queryTpms, UnexpectedAnswerError } from "../../src/qmp/queries.ts";
import { answer, greet } from "../support/fake_qmp.ts";
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

Deno.test("`queryJobs()` refuses a number that is too large to be one", async () => {
  await using dir = await tempDir();
  const path = dir.join("qmp");
  const job = '"id":"j","type":"backup","status":"running","current-progress":1e999';
  await using _peer = serve(path, async (peer) => {
    await greet(peer);
    const id = (await peer.receive())?.id;
    await peer.send(`{"return":[{${job},"total-progress":2}],"id":${id}}\n`);
    await peer.untilClosed();
  });
  await using qmp = await QmpClient.connect({ transport: "unix", path }, { timeoutMs: 2_000 });
  await assertRejects(() => queryJobs(qmp), UnexpectedAnswerError, "current-progress");
});
