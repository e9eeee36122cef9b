import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertStringIncludes,
} from "@std/assert";
import { delay } from "@std/async/delay";
import { join } from "@std/path";
import { exists } from "../../src/fs/durable.ts";
import { countingProxy } from "../support/counting_proxy.ts";
import { type FakeAgent, fakeAgent } from "../support/fake_agent.ts";
import {
  assertNothingLeft,
  filesOf,
  leftInQemu,
  nodeNames,
  queryBlock,
  type Scene,
  scene,
  until,
  untilCopying,
  untilSwitched,
} from "../support/scene.ts";
import { fullThenChanges, leaveDeadRun, nextHoldsAll, runsOf } from "../support/next_run.ts";
import { proxy } from "../support/proxy.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { deadline } from "../support/deadline.ts";

const MIB = 1 << 20;
const SLOW = ["--speed-limit", String(MIB)];

async function autoHoldsAll(s: Scene, ...more: string[]) {
  await s.vm.execute("stop");
  await s.remember("now");
  await s.vm.execute("cont");
  const result = await succeed(s.backupArgs("auto", ...more));
  await s.assertRestores("now");
  await assertNothingLeft(s.vm, 1);
  const fleeces = await Array.fromAsync(Deno.readDir(s.dir.path), ({ name }) => name);
  assertEquals(fleeces.filter((name) => name.endsWith(".fleece")), []);
  assertEquals((await filesOf(s.target)).filter((file) => file.endsWith(".partial")), []);
  return result;
}

Deno.test("a run that is cut off while it copies puts QEMU in order over a new connection", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  await using line = proxy(s.dir.join("proxy.qmp"), s.vm.socket);
  const args = ["--socket", line.path, "--level", "inc", "--target", s.target, ...SLOW];
  const running = tool(["backup", ...args]);
  await untilCopying(s.vm);
  line.cut();
  const { code, stderr } = await running;
  assertEquals(code, 1);
  assertStringIncludes(stderr, "Connected again");
  await assertNothingLeft(s.vm, 1);
  const { stdout } = await autoHoldsAll(s);
  assertMatch(stdout, /disk0 +inc +done/);
});

Deno.test("a run that is cut off, and finds another VM behind its socket, touches nothing more", async () => {
  await using s = await scene({ vm: { running: true } });
  await using other = await scene({ vm: { running: true, name: "othervm" } });
  await fullThenChanges(s);
  await succeed(other.backupArgs("full"));
  const socket = s.dir.join("socket");
  await Deno.symlink(s.vm.socket, socket);
  await using line = proxy(s.dir.join("proxy.qmp"), socket);
  const args = ["--socket", line.path, "--level", "inc", "--target", s.target, ...SLOW];
  const running = tool(["backup", ...args]);
  await untilCopying(s.vm);
  await Deno.remove(socket);
  await Deno.symlink(other.vm.socket, socket);
  line.cut();
  const { code, stderr } = await running;
  assertEquals(code, 1);
  assertStringIncludes(stderr, "the next run will try: a different QEMU answers on this socket");
  await assertNothingLeft(other.vm, 1);
  // QEMU writes to them on.
  const files = [...await filesOf(s.dir.path), ...await filesOf(s.target)];
  assertEquals(files.filter((file) => /\.(fleece|partial)$/.test(file)).length, 4);
  await autoHoldsAll(s);
});

/** A `qemu-img` of its own for a run: `before` is what a shell does before the real one. */
async function qemuImgInFront(folder: string, before: string): Promise<{ PATH: string }> {
  await Deno.mkdir(folder, { recursive: true });
  const script = `#!/bin/sh\ndir=$(dirname "$0")/..\n${before}\nPATH=\${PATH#*:} qemu-img "$@"\n`;
  await Deno.writeTextFile(join(folder, "qemu-img"), script, { mode: 0o755 });
  return { PATH: `${folder}:${Deno.env.get("PATH")}` };
}

Deno.test("a qemu-img that outlives its killed run does not write to the next run's image", async () => {
  await using s = await scene();
  const signal = s.dir.join("signals");
  // The dead run's creates its image just when the next run has checked and is about to keep its own.
  const wait = (file: string) => `until [ -e $dir/${file} ] || [ ! -d $dir ]; do sleep 0.05; done`;
  const late = await qemuImgInFront(
    join(signal, "late"),
    `touch $dir/asked; ${wait("go")}; trap "touch $dir/done" EXIT`,
  );
  const next = await qemuImgInFront(
    join(signal, "next"),
    `[ $1 != check ] || { touch $dir/go; ${wait("done")}; }`,
  );
  // Without times both images have one name.
  const args = s.backupArgs("full", "--no-timestamp");
  const killed = startTool(args, { env: late });
  await until(() => exists(deadline, join(signal, "asked")));
  killed.kill("SIGKILL");
  await killed.status;
  await s.remember("full");
  const { code, stderr } = await ended(startTool(args, { env: next }));
  assertEquals(code, 0, stderr);
  // What it has made is in nobody's way, and the next run removes it.
  await s.assertRestores("full");
  await succeed(s.backupArgs("auto", "--no-timestamp"));
  await s.assertRestores("full");
  assertEquals((await filesOf(s.target)).filter((file) => file.endsWith(".partial")), []);
  await Promise.all([killed.stdout.cancel(), killed.stderr.cancel()]);
});

Deno.test("what could not be taken away is taken away by the next run, its lock left or not", async () => {
  await using s = await scene({ disks: 1, vm: { running: true } });
  await fullThenChanges(s);
  const child = startTool(s.backupArgs("inc", ...SLOW));
  await untilSwitched(s.vm);
  const snapshot = async () => {
    const nodes = await s.vm.execute("query-named-block-nodes", { flat: true }) as {
      "node-name": string;
    }[];
    return nodes.map((node) => node["node-name"]).find((name) => name.endsWith("-snap"));
  };
  await until(async () => await snapshot() !== undefined);
  // Another client holds on to the snapshot.
  const addr = { type: "unix", data: { path: s.dir.join("nbd") } };
  await s.vm.execute("nbd-server-start", { addr });
  const name = await snapshot();
  await s.vm.execute("block-export-add", { type: "nbd", id: "held", "node-name": name });
  child.kill("SIGTERM");
  const { code, stderr } = await ended(child);
  assertEquals(code, 143);
  assertMatch(stderr, /ERROR Could not remove the node ".*-snap"/);
  const held = await tool(s.backupArgs("auto"));
  assertEquals(held.code, 1, "not while somebody holds it");
  await s.vm.execute("block-export-del", { id: "held", mode: "hard" });
  await until(async () => (await s.vm.execute("query-block-exports") as unknown[]).length === 0);
  await s.vm.execute("nbd-server-stop");
  await autoHoldsAll(s);
});

Deno.test("a dead run is cleaned up though its target and its lock are gone", async () => {
  await using s = await scene({ vm: { running: true } });
  const child = startTool(s.backupArgs("full", ...SLOW));
  await untilSwitched(s.vm);
  child.kill("SIGKILL");
  await ended(child);
  await s.vm.execute("cont");
  // Held open, its inode is not given to the new lock file: else that would prove the run dead.
  using _lock = await Deno.open(`${s.target}/_qmpbackup/lock`);
  await Deno.remove(s.target, { recursive: true });
  const { code, stderr } = await tool(s.backupArgs("auto"));
  // Whether it is dead can't be told without its lock file: the message says what to do.
  assertEquals(code, 11);
  assertStringIncludes(stderr, 'object-del, id "qmpbackup-lock"');
  await s.vm.execute("object-del", { id: "qmpbackup-lock" });
  await succeed(s.backupArgs("auto"));
  const roots = (await queryBlock(s.vm)).map(({ inserted }) => inserted?.["node-name"]);
  assertEquals(roots, ["disk0", "disk1"]);
});

Deno.test("a dead run is cleaned up whatever way leads to its target", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  await leaveDeadRun(s);
  const alias = s.dir.join("alias");
  await Deno.symlink(s.target, alias);
  await s.remember("now");
  await succeed(s.backupArgs("auto").map((word) => word === s.target ? alias : word));
  await s.assertRestores("now");
  await nextHoldsAll(s);
});

for (const level of ["full", "copy"]) {
  Deno.test(`behind a dead run a ${level} holds all, and so does what comes after it`, async () => {
    await using s = await scene({ vm: { running: true } });
    await fullThenChanges(s);
    await leaveDeadRun(s);
    await s.remember("now");
    await succeed(s.backupArgs(level));
    await s.assertRestores("now");
    await nextHoldsAll(s);
  });
}

for (const next of ["backup", "cleanup"]) {
  Deno.test(`a dead run is cleaned up by a ${next} though its target was renamed`, async () => {
    await using s = await scene({ vm: { running: true } });
    await fullThenChanges(s);
    await leaveDeadRun(s);
    const renamed = s.dir.join("renamed");
    await Deno.rename(s.target, renamed);
    await s.remember("now");
    const now = (args: string[]) => args.map((word) => word === s.target ? renamed : word);
    const recover = ["cleanup", "--recover", "--socket", s.vm.socket, "--target", renamed];
    if (next === "cleanup") await succeed(recover);
    await succeed(now(s.backupArgs("auto")));
    await Deno.rename(renamed, s.target);
    await s.assertRestores("now");
    await nextHoldsAll(s);
  });

  Deno.test(`what a killed run left is removed by a ${next} with another target, too`, async () => {
    await using s = await scene({ vm: { running: true } });
    await fullThenChanges(s);
    const other = s.dir.join("other");
    const copy = s.backupArgs("copy").map((word) => word === s.target ? other : word);
    await succeed(copy);
    await leaveDeadRun(s);
    const left = async () =>
      [...await filesOf(s.dir.path), ...await filesOf(s.target)]
        .filter((file) => /\.(fleece|partial)$/.test(file));
    assertEquals((await left()).length >= 4, true);
    const recover = ["cleanup", "--recover", "--socket", s.vm.socket, "--target", other];
    await succeed(next === "backup" ? copy : recover);
    assertEquals(await left(), []);
    assertEquals((await runsOf(s)).map(({ state }) => state), ["done", "failed"]);
    await nextHoldsAll(s);
  });
}

for (const isGroup of [false, true]) {
  const whole = isGroup ? " with all of its group" : "";
  Deno.test(`a guest whose run is killed${whole} while it is frozen is thawed by the guard`, async () => {
    await using s = await scene({ vm: { running: true } });
    await fullThenChanges(s);
    const path = s.dir.join("agent");
    let onFreeze = () => {};
    await using agent: FakeAgent = fakeAgent(path, ({ execute }) => {
      if (execute === "guest-fsfreeze-freeze") onFreeze();
      return false;
    });
    const under = ["setsid"];
    const child = startTool(s.backupArgs("inc", "--agent-socket", path), { under });
    onFreeze = () => Deno.kill(isGroup ? -child.pid : child.pid, "SIGKILL");
    const { stderr } = await ended(child);
    // The guard holds on to our stderr, so that what it does can be read: it has ended, too.
    assertStringIncludes(stderr, "ended while the guest was stopped or frozen: letting");
    assertEquals(agent.received.at(-1), "guest-fsfreeze-thaw");
    assert(!agent.frozen);
    assertEquals((await leftInQemu(s.vm)).includes("qmpbackup-frozen"), false);
    onFreeze = () => {};
    await autoHoldsAll(s, "--agent-socket", path);
  });
}

Deno.test("a guest whose run is killed while it stands still is let go by the guard within seconds", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  // QEMU has carried it out by then: what it has not read yet when its client goes, it need not do.
  await using line = countingProxy(s.dir.join("line.qmp"), s.vm.socket, (message) => {
    if (message.includes('"execute":"stop"')) child.kill("SIGKILL");
    return Promise.resolve();
  });
  const args = ["--socket", line.path, "--level", "inc", "--target", s.target, "--pause"];
  const child = startTool(["backup", ...args]);
  const { stderr } = await ended(child);
  assertStringIncludes(stderr, "by a run that died: resuming it");
  const [stop, resume, ...more] = s.vm.events.filter(({ event }) => /STOP|RESUME/.test(event));
  assertEquals([stop?.event, resume?.event, more.length], ["STOP", "RESUME", 0]);
  assert((resume?.seconds ?? 0) - (stop?.seconds ?? 0) < 10);
  await autoHoldsAll(s);
});

for (const next of ["backup", "cleanup"]) {
  Deno.test(`a guest that is held because of a run and its guard, both dead, is let go by a ${next}`, async () => {
    await using s = await scene({ vm: { running: true } });
    await fullThenChanges(s);
    const path = s.dir.join("agent");
    await using agent: FakeAgent = fakeAgent(path);
    agent.frozen = true;
    for (const id of ["qmpbackup-frozen", "qmpbackup-paused"]) {
      const mark = { "qom-type": "secret", id, data: "2026-11-22T00:00:00Z" };
      await s.vm.execute("object-add", mark);
    }
    await s.vm.execute("stop");
    const recover = ["cleanup", "--recover", "--socket", s.vm.socket];
    const args = next === "backup" ? s.backupArgs("auto") : recover;
    const without = await tool(args);
    assertEquals(without.code, 1);
    assertMatch(without.stderr, /may still be frozen by .*: give the --agent-socket/);
    const { stderr, stdout } = await succeed([...args, "--agent-socket", path]);
    assertStringIncludes(stderr + stdout, "be frozen by a run that died");
    assert(!agent.frozen);
    assertEquals((await s.vm.execute("query-status") as { status: string }).status, "running");
    assertEquals(await leftInQemu(s.vm), []);
    await autoHoldsAll(s, "--agent-socket", path);
  });
}

Deno.test("an agent that freezes late is thawed, and the run goes on without", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  const path = s.dir.join("agent");
  await using agent: FakeAgent = fakeAgent(path, async ({ execute }) => {
    if (execute === "guest-fsfreeze-freeze") await delay(1500);
    return false;
  });
  const hasty = ["--agent-socket", path, "--agent-timeout", "1"];
  const { stderr } = await autoHoldsAll(s, ...hasty);
  assertMatch(stderr, /were not frozen: The guest agent did not answer "guest-fsfreeze-freeze"/);
  assert(!agent.frozen);
  // A process of its own, whose guard has ended with it: that one looks whether the guest is held.
  const require = startTool(s.backupArgs("auto", ...hasty, "--quiesce=require"));
  assertEquals((await ended(require)).code, 1);
  assert(!agent.frozen);
  await assertNothingLeft(s.vm, 1);
});

Deno.test("an agent that hangs in a freeze ends this run and the next, until it answers", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  const path = s.dir.join("agent");
  const { promise: answers, resolve: goOn } = Promise.withResolvers<void>();
  await using agent: FakeAgent = fakeAgent(path, async ({ execute }) => {
    if (execute !== "guest-fsfreeze-freeze") return false;
    agent.frozen = true;
    await answers;
    return false;
  });
  const hasty = ["--agent-socket", path, "--agent-timeout", "1"];
  for (const _ of ["this", "the next"]) {
    const { code, stderr } = await ended(startTool(s.backupArgs("auto", ...hasty)));
    assertEquals(code, 1);
    assertStringIncludes(stderr, "may still be frozen: run guest-fsfreeze-thaw through its agent");
  }
  goOn();
  const { stderr } = await autoHoldsAll(s, ...hasty);
  assertStringIncludes(stderr, "be frozen by a run that died");
  assert(!agent.frozen);
});

Deno.test("an agent freezes the file systems of several disks, and the result says for how long", async () => {
  await using s = await scene({ vm: { running: true } });
  const path = s.dir.join("agent");
  await using agent = fakeAgent(path);
  const { stdout } = await succeed(s.backupArgs("full", "--agent-socket", path, "--json"));
  const { hold } = JSON.parse(stdout) as { hold: { kind: string; frozenMs: number } };
  assertEquals(hold.kind, "none");
  assert(hold.frozenMs > 0);
  assertEquals(agent.received, [
    "guest-fsfreeze-status",
    "guest-fsfreeze-freeze",
    "guest-fsfreeze-status",
    "guest-fsfreeze-thaw",
  ]);
});

Deno.test("cleanup --recover puts right what a killed run left, and with --dry-run only says so", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  const child = startTool(s.backupArgs("inc", ...SLOW));
  await untilCopying(s.vm);
  const cleanup = ["cleanup", "--recover", "--socket", s.secondSocket];
  const alive = await tool(cleanup);
  assertEquals(alive.code, 11, "while the run lives");
  child.kill("SIGKILL");
  await ended(child);

  const left = async () => [await nodeNames(s.vm), await filesOf(s.target), await queryBlock(s.vm)];
  const before = await left();
  const { stdout: planned } = await succeed([...cleanup, "--dry-run"]);
  assertEquals(await left(), before, "a dry run changes nothing");
  const { stdout } = await succeed(cleanup);
  assertEquals(stdout, planned, "what was done is what was announced");
  assertMatch(stdout, /^Unlocking the VM: run .* died\n/);
  for (const what of [/Ending the job/, /the node .*-gate/, /the bitmap/, /partial/, /fleece/]) {
    assertMatch(stdout, what);
  }
  await assertNothingLeft(s.vm, 1);
  assertEquals((await filesOf(s.target)).filter((file) => file.endsWith(".partial")), []);
  const again = await succeed([...cleanup, "--json"]);
  assertEquals(JSON.parse(again.stdout).recovered, 0);
  const { stdout: runs } = await succeed([
    "info",
    "--show",
    "backups",
    "--dir",
    s.target,
    "--json",
  ]);
  assertMatch(runs, /"state":"failed"/);
  await autoHoldsAll(s);
});

Deno.test("cleanup --recover puts all right though nobody can read what it says", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  await leaveDeadRun(s);
  const under = ["sh", "-c", 'exec "$@" > /dev/full', "sh"];
  const child = startTool(["cleanup", "--recover", "--socket", s.vm.socket], { under });
  const { code, stderr } = await ended(child);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "No space left on device");
  await assertNothingLeft(s.vm, 1);
  await nextHoldsAll(s);
});

Deno.test("cleanup --recover needs no target where the dead run's lock is gone", async () => {
  await using s = await scene({ vm: { running: true } });
  const child = startTool(s.backupArgs("full", ...SLOW));
  await untilCopying(s.vm);
  child.kill("SIGKILL");
  await ended(child);
  await s.vm.execute("object-del", { id: "qmpbackup-lock" });
  const { stdout } = await succeed(["cleanup", "--recover", "--socket", s.vm.socket]);
  assertMatch(stdout, /Ending the job/);
  const roots = (await queryBlock(s.vm)).map(({ inserted }) => inserted?.["node-name"]);
  assertEquals(roots, ["disk0", "disk1"]);
  // The files are known from the target's records alone.
  const named = await succeed([
    ...["cleanup", "--recover", "--socket", s.vm.socket, "--target", s.target],
  ]);
  assertMatch(named.stdout, /partial of a run that died/);
  const other = await tool(["cleanup", "--recover", "--socket", s.vm.socket, "--target", "/etc"]);
  assertEquals([other.code, other.stderr.includes("holds no records")], [2, true]);
});

/** A run that was recorded as done, and killed before it gave up the bitmap that it had spent. */
async function killBeforeBitmapGoes(s: Scene) {
  await using line = proxy(s.dir.join("proxy.qmp"), s.vm.socket, (text) => {
    if (text.includes('"execute":"block-dirty-bitmap-remove"')) child.kill("SIGKILL");
  });
  const args = ["--socket", line.path, "--level", "inc", "--target", s.target];
  const child = startTool(["backup", ...args]);
  await ended(child);
}

Deno.test("cleanup --recover keeps the bitmaps of a run that died when it was recorded, whatever target is named", async () => {
  await using s = await scene({ vm: { running: true } });
  const other = s.dir.join("other");
  await succeed(s.backupArgs("full").map((word) => word === s.target ? other : word));
  await succeed(s.backupArgs("full"));
  await killBeforeBitmapGoes(s);
  await succeed(["cleanup", "--recover", "--socket", s.vm.socket, "--target", other]);
  await s.vm.write("vd1", 0x59, 2 * MIB, MIB);
  await s.vm.execute("stop");
  await s.remember("now");
  await succeed(s.backupArgs("inc"));
  await s.assertRestores("now");
});

Deno.test("cleanup --recover keeps all bitmaps of a run that died where its records can't be seen", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  await killBeforeBitmapGoes(s);
  // As where the target is not mounted; the lock's file is there, so that the run can be proved dead.
  const runs = `${s.target}/_qmpbackup/runs`;
  await Deno.rename(runs, s.dir.join("elsewhere"));
  const { stdout } = await succeed(["cleanup", "--recover", "--socket", s.vm.socket]);
  assertMatch(stdout, /^Unlocking the VM/);
  await Deno.rename(s.dir.join("elsewhere"), runs);
  const next = await autoHoldsAll(s);
  assertMatch(next.stdout, /disk0 +inc +done[^]*disk1 +inc +done/);
});

Deno.test("cleanup --recover removes nothing of a run that finishes while it waits for the target", async () => {
  await using s = await scene();
  await s.remember("full");
  await succeed(s.backupArgs("full"));
  const folder = `${s.target}/_qmpbackup/runs`;
  const [name] = await Array.fromAsync(Deno.readDir(folder), ({ name }) => name);
  const done = await Deno.readTextFile(join(folder, name as string));
  const running = done.replace(/"state": *"done"/, '"state":"running"')
    .replaceAll(/"result": *"done"/g, '"result":"pending"');
  assertNotEquals(running, done);
  await Deno.writeTextFile(join(folder, name as string), running);
  // The lock that it takes in QEMU comes after that of the target.
  await using line = proxy(s.dir.join("proxy.qmp"), s.vm.socket, (text) => {
    if (!text.includes('"object-add"')) return;
    Deno.writeTextFileSync(join(folder, name as string), done);
  });
  const args = ["--recover", "--socket", line.path, "--target", s.target];
  const { stdout } = await succeed(["cleanup", ...args, "--json"]);
  assertEquals(JSON.parse(stdout).recovered, 0);
  await s.assertRestores("full");
});
