import { assertEquals, assertRejects } from "@std/assert";
import { QmpClient } from "../../src/qmp/client.ts";
import { qomText, queryJobs, queryTpms, UnexpectedAnswerError } from "../../src/qmp/queries.ts";
import { lockVm } from "../../src/vm/lock.ts";
import { deadline } from "../support/deadline.ts";
import { answer, greet, Refusal } from "../support/fake_qmp.ts";
import { serve } from "../support/fake_peer.ts";
import { tempDir } from "../support/temp_dir.ts";

/** Talks with a QMP server of these answers. */
async function withAnswers<T>(
  answers: Record<string, (args: Record<string, unknown>) => unknown>,
  talk: (qmp: QmpClient) => Promise<T>,
): Promise<T> {
  await using dir = await tempDir();
  const path = dir.join("qmp");
  await using _peer = serve(path, (peer) => answer(peer, answers));
  await using qmp = await QmpClient.connect({ transport: "unix", path }, { timeoutMs: 60_000 });
  return await talk(qmp);
}

const tpmsOf = (answers: Record<string, () => unknown>) => withAnswers(answers, queryTpms);

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
  await using qmp = await QmpClient.connect({ transport: "unix", path }, { timeoutMs: 60_000 });
  await assertRejects(() => queryJobs(qmp), UnexpectedAnswerError, "current-progress");
});

/** QEMU's refusals for an object that is gone, or there already. */
const gone = () => {
  throw new Refusal("Device '/objects/qmpbackup-lock' not found");
};
const duplicate = () => {
  throw new Refusal("attempt to add duplicate property 'qmpbackup-lock' to object");
};

Deno.test("`qomText()` finds nothing in an object that goes between the look and the question", async () => {
  const answers = { "qom-list": () => [{ name: "data", type: "string" }], "qom-get": gone };
  assertEquals(await withAnswers(answers, (qmp) => qomText(qmp, "/objects/x", "data")), null);
});

Deno.test("`lockVm()` takes the lock that its holder gives back between the refusal and the look", async () => {
  const added: string[] = [];
  const answers = {
    "object-add": ({ id }: Record<string, unknown>) => {
      added.push(String(id));
      if (added.length === 1) duplicate();
      return {};
    },
    "object-del": () => ({}),
    "qom-list": gone,
  };
  const holder = { run: "r", host: "h", pid: 1, since: "", lockFile: "/none" };
  await withAnswers(answers, async (qmp) => {
    await using lock = await lockVm(deadline, qmp, { ...holder, lockInode: 1, lockDevice: 1 });
    assertEquals(lock.dead, null);
  });
  assertEquals(added, ["qmpbackup-lock", "qmpbackup-lock"]);
});
