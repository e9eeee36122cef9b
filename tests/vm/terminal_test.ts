import { assert, assertEquals, assertMatch } from "@std/assert";
import { shellText } from "../../src/shell.ts";
import { ensurePrograms } from "../support/install_qemu.ts";
import {
  assertNothingLeft,
  leftInQemu,
  type Scene,
  scene,
  setSpeed,
  untilCopying,
  untilSwitched,
} from "../support/scene.ts";
import { linesOnScreen } from "../support/screen.ts";
import { mountTmpfs } from "../support/tmpfs.ts";
import { toolCommand } from "../support/tool.ts";

await ensurePrograms({ script: "bsdutils" });

const MIB = 1 << 20;
const ROWS = 24, COLUMNS = 80;

/** Runs the tool in a pseudo-terminal of 80 columns and 24 rows. */
async function inTerminal(
  s: Scene,
  args: string[],
  act: (press: (keys: string) => Promise<void>, text: () => string) => Promise<void>,
): Promise<{ code: number; lines: string[] }> {
  const line = `stty rows ${ROWS} cols ${COLUMNS} && ${shellText(toolCommand(args))}`;
  const child = new Deno.Command("script", {
    args: ["-q", "-e", "-c", line, s.dir.join("typescript")],
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  let text = "";
  const reading = (async () => {
    for await (const piece of child.stdout.pipeThrough(new TextDecoderStream())) text += piece;
  })();
  const keys = child.stdin.getWriter();
  await act((pressed) => keys.write(new TextEncoder().encode(pressed)), () => text);
  const { code } = await child.status;
  await reading;
  await keys.close().catch(() => {});
  return { code, lines: linesOnScreen(text, ROWS, COLUMNS) };
}

const isBar = (line: string) => /\[[#.]+\]|\d+%/.test(line);

async function sixDisks(): Promise<Scene> {
  await using stack = new AsyncDisposableStack();
  const s = stack.use(await scene({ disks: 6, diskBytes: 32 * MIB, vm: { running: true } }));
  stack.move();
  return s;
}

Deno.test("in a terminal of 80x24 six disks have bars, one that fails says so, and no bar is left", async () => {
  await using s = await sixDisks();
  await using fleece = await mountTmpfs(s.dir.join("fleece"), 16 * MIB);
  const args = s.backupArgs(
    "full",
    "--speed-limit",
    String(MIB / 2),
    "--fleece-dir",
    s.dir.join("fleece"),
  );
  let drawn = "";
  const bars = (text: string) => linesOnScreen(text, ROWS, COLUMNS).filter(isBar);
  const { code, lines } = await inTerminal(s, args, async (_press, text) => {
    await untilSwitched(s.vm);
    await fleece.fill();
    for (let i = 0; i < 8; i++) await s.vm.write("vd0", 0x55 + i, i * MIB, MIB);
    // The others have a bar once their jobs tell how far they are.
    while (!/disk0 +failed at \d+%/.test(text()) || bars(text()).length < 7) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    drawn = text();
    await setSpeed(s.vm);
  });
  assertEquals(code, 1);
  const shown = bars(drawn);
  assertEquals(shown.map((line) => /(disk\d|all) /.exec(line)?.[1]), [
    ...["disk0", "disk1", "disk2", "disk3", "disk4", "disk5", "all"],
  ]);
  assert(shown.every((line) => line.length < COLUMNS));
  // What is left is the log and the result, with nothing twice.
  assertEquals(lines.filter(isBar), []);
  const text = lines.join("\n");
  assertEquals(text.match(/ERROR Disk disk0/g)?.length, 1);
  assertMatch(text, /^disk0 +full +failed +- +-$/m);
  assertMatch(text, /^disk5 +full +done +\S+ MiB +disk5\/FULL-\d+-disk5\.qcow2$/m);
  assertMatch(text, /^5 of 6 disks, \S+ MiB in 0:\d\d \(\S+ MiB\/s\) to \S*/m);
  assertEquals(await leftInQemu(s.vm), []);
});

Deno.test("Ctrl-C in a terminal leaves the reason, once, and no bar", async () => {
  await using s = await sixDisks();
  const args = s.backupArgs("full", "--speed-limit", String(MIB));
  const { code, lines } = await inTerminal(s, args, async (press, text) => {
    await untilCopying(s.vm);
    while (!text().includes("] all ")) await new Promise((resolve) => setTimeout(resolve, 20));
    await press("\x03");
  });
  assertEquals(code, 130);
  assertEquals(lines.filter(isBar), []);
  const text = lines.join("\n");
  assertEquals(text.match(/Stopped by SIGINT/g)?.length, 2, text);
  assertEquals(text.includes("^C"), false);
  assertMatch(text, /WARNING Stopped by SIGINT: undoing what was begun/);
  assertMatch(text, /^Error: Stopped by SIGINT$/m);
  assertEquals(text.includes("ERROR Disk"), false);
  await assertNothingLeft(s.vm, 0);
});
