/**
 * The connection cut, or the tool killed, after every message of a run.
 *
 * Whatever the moment: nothing that was reported as done is wrong or lost, the next run puts all in
 * order, and its increment holds every write.
 *
 * `QMPBACKUP_TEST_CUTS`: "all" tries every message of every scenario; a number says which sample, so
 * that one which found something can be run again. One scenario: `--filter "full, kill"`. With `TMPDIR`
 * on a tmpfs (not below `/dev`, which Deno keeps to programs with all rights, and the guard has not)
 * all takes a fraction of the time: it is the syncing that takes long.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { countingProxy } from "../support/counting_proxy.ts";
import { type FakeAgent, fakeAgent } from "../support/fake_agent.ts";
import { leaveDeadRun } from "../support/next_run.ts";
import { type ReportedPoint, ReportedPoints } from "../support/reported_points.ts";
import { assertNothingLeft, filesOf, type Scene, scene, until } from "../support/scene.ts";
import type { TempDir } from "../support/temp_dir.ts";
import { ended, startTool, succeed, tool, type ToolResult } from "../support/tool.ts";

const MIB = 1 << 20;

interface Scenario {
  level: "full" | "inc" | "copy";
  /**
   * "cut": the tool can connect again and put things in order; "gone": it can't, the next run must;
   * "kill": the tool is killed with -9; "write": nothing is cut, the guest just writes at that moment,
   * since in a run that ends well other windows are open.
   */
  way: "cut" | "gone" | "kill" | "write";
  /** What is special about it. */
  variant?: "agent" | "pause" | "new target" | "behind a dead run";
}

const WAYS = ["cut", "gone", "kill"] as const;
const SCENARIOS: Scenario[] = [
  ...(["full", "inc", "copy"] as const).flatMap((level) => WAYS.map((way) => ({ level, way }))),
  { level: "inc", way: "write" },
  ...WAYS.map((way): Scenario => ({ level: "inc", way, variant: "agent" })),
  { level: "inc", way: "kill", variant: "pause" },
  { level: "full", way: "kill", variant: "new target" },
  { level: "inc", way: "gone", variant: "behind a dead run" },
];

/** A sample tries every so many-th message: a prime, so that it finds commands as well as answers. */
const SAMPLE_STRIDE = 97;
const SAMPLE_SHIFT = 5;
/** The chain must not grow without end: after so many points all are restored, and a new VM starts. */
const POINTS_PER_TARGET = 20;
/** A scenario in which so many are wrong needn't go on. */
const ENOUGH_WRONG = 5;

/** A VM, a target, and where the next write goes. */
interface Ground extends AsyncDisposable {
  scene: Scene;
  points: ReportedPoints;
  agent: FakeAgent;
  agentArgs: string[];
  /** Called when the agent has done as it was told, and before it answers. */
  onAgent: (message: string) => Promise<void>;
  /** Writes somewhere on each disk, each time elsewhere and something else. */
  scribble(): Promise<void>;
}

async function startGround({ variant }: Scenario): Promise<Ground> {
  await using stack = new AsyncDisposableStack();
  const s = stack.use(await scene({ diskBytes: 32 * MIB, vm: { running: true } }));
  const agentSocket = s.dir.join("agent");
  const agent = stack.use(fakeAgent(agentSocket, async ({ execute }) => {
    if (execute === "guest-fsfreeze-freeze") agent.frozen = true;
    if (execute === "guest-fsfreeze-thaw") agent.frozen = false;
    await ground.onAgent(`→ agent: ${execute}`);
    return false;
  }));
  let writes = 0;
  const ground: Ground = {
    scene: s,
    points: new ReportedPoints(s),
    agent,
    agentArgs: ["--agent-socket", agentSocket, "--quiesce=require"],
    onAgent: () => Promise.resolve(),
    async scribble() {
      for (const disk of ["vd0", "vd1"]) {
        writes++;
        // 7 and 500 have no common divisor: 500 writes before a place is written to again.
        const offset = (writes * 7 % 500) * 65536 + 4608;
        await s.vm.write(disk, 1 + writes % 255, offset, 65536);
      }
    },
    [Symbol.asyncDispose]: () => cleanup.disposeAsync(),
  };
  if (variant !== "new target") {
    await s.remember("first");
    await succeed(s.backupArgs("full"));
    await ground.points.look("first");
  }
  const cleanup = stack.move();
  return ground;
}

/** What became of a run that was to be cut after the n-th message. */
interface CutRun {
  result: ToolResult;
  /** How many messages went through, up to the cut. */
  messages: number;
  /** The n-th message; null if there were fewer. */
  cutAt: string | null;
}

const linePath = (dir: TempDir, n: number) => dir.join(`${n}.qmp`);

/** Runs the tool, and cuts it off after the n-th message. The guest writes just before and after. */
async function runAndCut(
  ground: Ground,
  { level, way, variant }: Scenario,
  n: number,
): Promise<CutRun> {
  const { scene: { dir, target, vm } } = ground;
  let messages = 0, cutAt: string | null = null;
  let child: Deno.ChildProcess | null = null;
  const onMessage = async (message: string) => {
    if (cutAt !== null || ++messages < n) return;
    cutAt = message.trim().slice(0, 200);
    await ground.scribble();
    if (way === "write") return;
    if (child) killHard(child);
    if (way === "gone") line.close();
    else line.cut();
    await ground.scribble();
  };
  await using line = countingProxy(linePath(dir, n), vm.socket, onMessage);
  if (variant === "agent") ground.onAgent = onMessage;
  const args = [
    ...["backup", "--socket", line.path, "--level", level, "--target", target],
    ...(variant === "agent" ? ground.agentArgs : []),
    ...(variant === "pause" ? ["--pause"] : []),
  ];
  let result: ToolResult;
  if (way === "kill") {
    child = startTool(args);
    result = await ended(child);
  } else {
    result = await tool(args);
  }
  ground.onAgent = () => Promise.resolve();
  return { result, messages, cutAt };
}

function killHard(child: Deno.ChildProcess) {
  try {
    child.kill("SIGKILL");
  } catch {
    // After its last message it may have ended by itself.
  }
}

/**
 * Lets the guard of a run whose line was cut, or whose QEMU was gone, find it again: it looks for it for a minute,
 * longer than this test may take, and where the run itself was fast the line was closed before the guard came. It
 * sees that another run has it by now.
 */
async function bringBack({ scene: { dir, vm } }: Ground, n: number) {
  const line = linePath(dir, n);
  // Deno 2.9 removes it when the listener closes, 2.4 does not.
  await Deno.remove(line).catch(() => {});
  await Deno.symlink(vm.socket, line);
}

/** Waits for the guard of a run whose connection was cut: nobody else does, and it takes its own time. */
async function guardEnded({ scene: { dir } }: Ground, n: number) {
  const line = linePath(dir, n);
  await until(async () => !(await commandLines()).some((words) => words.includes(line)));
}

/** Of all processes there are. */
async function commandLines(): Promise<string[]> {
  const processes = await Array.fromAsync(Deno.readDir("/proc"), ({ name }) => name);
  return await Promise.all(
    processes.filter((name) => /^[0-9]+$/.test(name))
      // One that has ended meanwhile.
      .map((pid) => Deno.readTextFile(`/proc/${pid}/cmdline`).catch(() => "")),
  );
}

async function isRunning({ vm }: Scene): Promise<boolean> {
  return (await vm.execute("query-status") as { running: boolean }).running;
}

/** Nothing of ours between the guest and its disks, and the guest goes on. */
async function assertGuestIsFree(s: Scene) {
  assert(await isRunning(s), "the guest stands still");
  const nodes = await s.vm.execute("query-named-block-nodes", { flat: true });
  const names = (nodes as { "node-name": string }[]).map((node) => node["node-name"]);
  assertEquals(names.filter((name) => name.startsWith("qmpbackup")), []);
}

async function assertNoFileLeft(s: Scene) {
  const around = await Array.fromAsync(Deno.readDir(s.dir.path), ({ name }) => name);
  const files = [
    ...await filesOf(s.target),
    ...await filesOf(`${s.target}/_qmpbackup`),
    ...around.filter((name) => name.startsWith("qmpbackup")),
  ];
  const left = /\.(partial|fleece|replaced|tmp)$/;
  assertEquals(files.filter((name) => left.test(name)), []);
}

/** Removes what `remember()` copied: it would be many megabytes for each point. */
async function forget({ dir }: Scene, moment: string) {
  for (const disk of ["vd0", "vd1"]) await Deno.remove(dir.join(`${moment}.${disk}.raw`));
}

/** Cuts a run after its n-th message, and sees that all is well then and after the next run. */
async function tryCut(ground: Ground, scenario: Scenario, n: number): Promise<CutRun> {
  const { scene: s, points, agent, agentArgs } = ground;
  const { way, variant } = scenario;
  await ground.scribble();
  if (variant === "behind a dead run") await leaveDeadRun(s);
  await s.remember(`${n}.before`);
  const run = await runAndCut(ground, scenario, n);
  const check = async () => {
    const { cutAt, result: { code, stderr: words } } = run;
    if (cutAt === null || way === "write") assertEquals(code, 0, words);
    if (way === "cut") await assertGuestIsFree(s);
    // By the guard, which has ended with the run's stderr: not by the next run.
    if (way === "kill") {
      assert(await isRunning(s), "the guest was left standing still");
      assert(!agent.frozen, "the guest was left frozen");
    }
    // Whether that one write falls before or after the point in time, the next run must hold it.
    if (way === "write") await s.remember(`${n}.during`);
    const reported = await points.look(`${n}.before`, ...(way === "write" ? [`${n}.during`] : []));
    if (code === 0) assertEquals(reported.length, 2, "said to be done");
    if (reported.length === 0) await forget(s, `${n}.before`);

    await ground.scribble();
    await s.remember(`${n}.after`);
    const { stderr } = await succeed(
      s.backupArgs("auto", ...(variant === "agent" ? agentArgs : [])),
    );
    const next = await points.look(`${n}.after`);
    assertEquals(next.map(({ disk }) => disk), ["disk0", "disk1"], stderr);
    // Whatever was cut, no bitmap is lost.
    if (variant !== "new target") assertEquals(levelsOf(next), ["inc", "inc"], stderr);
    await points.restore([...reported, ...next]);
    await assertNothingLeft(s.vm, 1);
    await assertNoFileLeft(s);
    assert(await isRunning(s), "the guest stands still");
    assert(!agent.frozen, "the guest is frozen");
    assertEquals(agent.received.includes("guest-fsfreeze-freeze"), variant === "agent");
    if (way === "gone" || way === "cut") {
      await bringBack(ground, n);
      await guardEnded(ground, n);
    }
  };
  try {
    await check();
  } catch (error) {
    const words = error instanceof Error ? error.message : String(error);
    throw new Error(`${words}\nat ${run.cutAt}\nThe tool had said: ${run.result.stderr}`);
  }
  return run;
}

const levelsOf = (points: ReportedPoint[]) => points.map(({ level }) => level);

/** Of all scenarios that ran. */
const tally = { tried: 0, messages: 0, wrong: 0 };

/**
 * Tries every `stride`-th message from the `first` on, until a run has no n-th message.
 *
 * @returns What was wrong.
 */
async function tryAll(scenario: Scenario, first: number, stride: number): Promise<string[]> {
  const wrong: string[] = [];
  let n = first, tried = 0, messages = 0, isOver = false;
  while (!isOver && wrong.length < ENOUGH_WRONG) {
    await using ground = await startGround(scenario);
    const last = scenario.variant === "new target" ? n : n + (POINTS_PER_TARGET - 1) * stride;
    try {
      for (; n <= last && !isOver; n += stride) {
        const run = await tryCut(ground, scenario, n);
        isOver = run.cutAt === null;
        messages = run.messages;
        if (!isOver) tried++;
      }
      await ground.points.restore();
    } catch (error) {
      wrong.push(`After message ${n}: ${error instanceof Error ? error.message : error}`);
      tried++;
      n += stride;
    }
  }
  tally.tried += tried;
  // The number differs by a few from run to run: how often a job tells of itself.
  tally.messages += Math.max(messages, tried);
  tally.wrong += wrong.length;
  return wrong;
}

const wish = Deno.env.get("QMPBACKUP_TEST_CUTS") ?? String(Date.now() % SAMPLE_STRIDE);
const stride = wish === "all" ? 1 : SAMPLE_STRIDE;

for (const [index, scenario] of SCENARIOS.entries()) {
  const { level, way, variant } = scenario;
  const name = [level, way, ...(variant ? [variant] : [])].join(", ");
  Deno.test(`nothing is lost wherever a run is cut off: ${name}`, async () => {
    // Another part of the sample in each scenario, so that together they spread over all messages.
    const first = wish === "all" ? 1 : 1 + (Number(wish) + SAMPLE_SHIFT * index) % stride;
    const wrong = await tryAll(scenario, first, stride);
    if (wrong.length > 0) throw new Error(wrong.join("\n\n"));
  });
}

globalThis.addEventListener("unload", () => {
  console.log(
    `cut points tried: ${tally.tried} of ${tally.messages}, wrong: ${tally.wrong}` +
      (wish === "all" ? "" : ` (the sample is that of QMPBACKUP_TEST_CUTS=${wish})`),
  );
});
