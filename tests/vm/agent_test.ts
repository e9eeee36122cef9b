import { assert, assertEquals, assertLess, assertMatch, assertStringIncludes } from "@std/assert";
import { type Behaviour, fakeAgent, refuse } from "../support/fake_agent.ts";
import { assertNothingLeft, filesOf, type Scene, scene } from "../support/scene.ts";
import { succeed, tool, type ToolResult } from "../support/tool.ts";

const STATUS = "guest-fsfreeze-status";
const FREEZE = "guest-fsfreeze-freeze";
const THAW = "guest-fsfreeze-thaw";

interface Summary {
  state: string;
  hold: { frozenMs: number | null };
  warnings: string[];
}

async function backUp(s: Scene, behave: Behaviour, ...more: string[]): Promise<ToolResult> {
  const socket = s.dir.join("agent");
  await using agent = fakeAgent(socket, behave);
  const result = await tool(s.backupArgs("auto", "--agent-socket", socket, ...more));
  assert(!agent.frozen, "the guest was left frozen");
  return result;
}

/** The first answer is the given one, the others are the usual. */
function first(command: string, answer: { return: unknown } | { error: string }): Behaviour {
  let isOver = false;
  return async ({ execute }, peer, agent) => {
    // The state is asked for before the freeze as well.
    if (execute !== command || isOver || (command === STATUS && !agent.frozen)) return false;
    isOver = true;
    if (execute === FREEZE) agent.frozen = true;
    if (execute === THAW) agent.frozen = false;
    if ("error" in answer) await refuse(peer, answer.error);
    else await peer.send(answer);
    return true;
  };
}

const LIES: [name: string, () => Behaviour, words: RegExp][] = [
  [
    "answers the first thaw with an error, as Windows' does",
    () => first(THAW, { error: "timeout when try to receive Frozen event from VSS provider" }),
    /not frozen, or not all the time.*the error "timeout when try to receive Frozen event/,
  ],
  [
    "thaws fewer file systems than it froze",
    () => first(THAW, { return: 1 }),
    /not all the time.*2 were said to be frozen.*"guest-fsfreeze-thaw" was answered with 1/,
  ],
  [
    "says that the guest was thawed all along",
    () => first(STATUS, { return: "thawed" }),
    /not all the time.*"guest-fsfreeze-status" was answered with "thawed"/,
  ],
  [
    "thaws a number that can't be",
    () => first(THAW, { return: -2 }),
    /not all the time.*"guest-fsfreeze-thaw" was answered with -2/,
  ],
  [
    "freezes nothing",
    () => first(FREEZE, { return: 0 }),
    /were not frozen: No file system .*"guest-fsfreeze-freeze" with 0/,
  ],
];

for (const [name, behave, words] of LIES) {
  Deno.test(`an agent that ${name} is a warning, and an error where a freeze is required`, async () => {
    await using s = await scene({ disks: 1, vm: { running: true } });
    await succeed(s.backupArgs("full"));
    const files = await filesOf(s.target);
    const refused = await backUp(s, behave(), "--quiesce=require");
    assertEquals(refused.code, 1, refused.stderr);
    assertMatch(refused.stderr, words.source.includes("No file") ? /No file system/ : words);
    // Nothing of it counts, and what was before does.
    assertEquals(await filesOf(s.target), files);
    await assertNothingLeft(s.vm, 1);

    await s.remember("warned");
    const { code, stdout } = await backUp(s, behave(), "--quiesce", "--strict", "--json");
    assertEquals(code, 3);
    const { state, hold, warnings }: Summary = JSON.parse(stdout);
    assertEquals([state, hold.frozenMs], ["done", null]);
    assertEquals(warnings.length, 1);
    assertMatch(warnings.join(), words);
    // In the record as well.
    const { runs } = await records(s);
    assertEquals(runs.at(-1)?.warnings, warnings);
    await s.assertRestores("warned");
    await assertNothingLeft(s.vm, 1);
  });
}

async function records(s: Scene): Promise<{ runs: { warnings: string[] }[] }> {
  const folder = `${s.target}/_qmpbackup/runs`;
  const names = (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).sort();
  const texts = await Promise.all(names.map((name) => Deno.readTextFile(`${folder}/${name}`)));
  const runs: { sequence: number; warnings: string[] }[] = texts.map((text) => JSON.parse(text));
  return { runs: runs.sort((a, b) => a.sequence - b.sequence) };
}

for (const command of [FREEZE, THAW, STATUS]) {
  Deno.test(`megabytes for an answer to "${command}" stop no later backup and no restore`, async () => {
    await using s = await scene({ disks: 1, vm: { running: true } });
    // A control character takes six bytes on the wire; the last one turns a line's direction.
    const desc = `lies ${"\x01x".repeat(1 << 20)} \u202eend`;
    const logfile = s.dir.join("log");
    const more = ["--quiesce", "--strict", "--logfile", logfile, "--debug"];
    await s.remember("first");
    const { code, stdout, stderr } = await backUp(s, first(command, { error: desc }), ...more);
    assertEquals(code, 3, stderr.slice(0, 2000));
    assertMatch(stderr, /lies \\x01x/);
    const folder = `${s.target}/_qmpbackup/runs`;
    for await (const { name } of Deno.readDir(folder)) {
      assertLess((await Deno.stat(`${folder}/${name}`)).size, 64 << 10);
    }
    for (const text of [stdout, stderr, await Deno.readTextFile(logfile)]) {
      assertLess(text.length, 1 << 20);
      // deno-lint-ignore no-control-regex
      assertEquals(/[\x01\u202e]/.test(text), false);
    }
    assertStringIncludes(stderr, "\\x202eend");
    await s.assertRestores("first");
    await s.vm.write("vd0", 0x77, 0, 1 << 20);
    await s.remember("second");
    await succeed(s.backupArgs("inc", "--strict"));
    await s.assertRestores("second");
    await succeed(["info", "--show", "backups", "--dir", s.target]);
  });
}
