import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { formatRecord } from "../../src/repo/record.ts";
import type { Target } from "../../src/repo/repository.ts";
import { CHROMIUM, startChromium } from "../support/chromium.ts";
import { ensurePrograms } from "../support/install_qemu.ts";
import { tempDir } from "../support/temp_dir.ts";
import { succeed, tool } from "../support/tool.ts";
import { sixtyNights } from "../unit/overview/_nights.ts";

const EVIL = `<script>document.title="evil"</script>'"><img src=x onerror=alert(1)>`;

async function writeRecords(targets: Target[]) {
  for (const { path, runs } of targets) {
    await Deno.mkdir(join(path, "_qmpbackup/runs"), { recursive: true });
    for (const run of runs) {
      await Deno.writeTextFile(join(path, `_qmpbackup/runs/${run.id}.json`), formatRecord(run));
    }
  }
}

/** Two VMs with sixty nights each, and one that can't be read; the images are gone. */
async function writeVms(dir: string) {
  await writeRecords(sixtyNights(join(dir, "vm1")));
  const evil = sixtyNights(join(dir, "vm2")).map((target) => ({
    ...target,
    runs: target.runs.map((run) => ({
      ...run,
      vm: { name: EVIL, uuid: "" },
      ...(run.error === undefined ? {} : { error: EVIL }),
    })),
  }));
  await writeRecords(evil);
  await Deno.mkdir(join(dir, "vm3/_qmpbackup/runs"), { recursive: true });
  await Deno.writeTextFile(join(dir, "vm3/_qmpbackup/runs/x.json"), EVIL);
}

Deno.test("`info --html` writes a file that everybody may read, and exits as --max-age says", async () => {
  await using dir = await tempDir();
  await writeVms(dir.path);
  const page = ["info", "--dir", dir.path, "--html", dir.join("page.html")];
  const { stdout } = await succeed(page);
  assertEquals(stdout, `Wrote ${dir.join("page.html")}\n`);
  assertEquals(((await Deno.stat(dir.join("page.html"))).mode ?? 0) & 0o777, 0o644);
  assertEquals((await tool([...page, "--max-age", "26h", "--json"])).code, 1);
  const text = await Deno.readTextFile(dir.join("page.html"));
  assertStringIncludes(text, "3 VMs: 1 unreadable, 2 broken");
  assertEquals((await tool([...page, "--last", "3"])).code, 2);
});

// With what it needs it takes some 400 MB: for that, nobody but root is stopped.
if (Deno.uid() === 0) await ensurePrograms({ [CHROMIUM]: "chromium" });
const isThere = await Deno.stat(CHROMIUM).then(() => true, () => false);
if (!isThere) console.warn(`NOT TESTED: the page in a browser, since ${CHROMIUM} is not installed`);

Deno.test({
  name:
    "the page of `info --html` in Chromium has every run, asks for nothing, and complains of nothing",
  ignore: !isThere,
  fn: async (t) => {
    await using dir = await tempDir();
    await writeVms(dir.path);
    const url = `file://${dir.join("page.html")}`;
    await succeed(["info", "--dir", dir.path, "--html", dir.join("page.html")]);
    const { stdout } = await succeed(["info", "--dir", dir.join("vm2"), "--json"]);
    await using chromium = await startChromium();
    await chromium.resize(1280, 900);
    await chromium.open(url);
    await t.step("no request but for itself, no message, no script ran", async () => {
      assertEquals(chromium.seen, { requests: [url], messages: [] });
      assertEquals(await chromium.evaluate("document.title"), `Backups in ${dir.path}`);
      assertEquals(await chromium.evaluate("document.querySelectorAll('script, img').length"), 0);
      // The style is not refused by the policy.
      const family = "getComputedStyle(document.body).maxWidth";
      assertEquals(await chromium.evaluate(family), "1152px");
    });
    await t.step("each run of the JSON is on it, twice: of both VMs", async () => {
      const text = await chromium.evaluate<string>("document.body.innerText");
      const runs = stdout.trimEnd().split("\n").map((line) => JSON.parse(line)).slice(0, -1);
      assertEquals(runs.length, 57);
      for (const { id, notes } of runs) {
        assertEquals(text.split(/\s/).filter((word) => word === id).length, 2, id);
        for (const note of notes) assertStringIncludes(text, note);
      }
      assertStringIncludes(text, EVIL);
      assertStringIncludes(text, "UNREADABLE");
    });
    for (const [name, width] of [["desktop", 1280], ["phone", 360], ["print", 800]] as const) {
      await t.step(`as ${name} it does not scroll sideways`, async () => {
        await chromium.resize(width, 900);
        await chromium.emulatePrint(name === "print");
        const widest = "document.documentElement.scrollWidth";
        assert(await chromium.evaluate<number>(widest) <= width);
        // The newest night is seen without scrolling.
        const newest = "document.querySelector('.timeline svg').getBoundingClientRect().right";
        assert(await chromium.evaluate<number>(newest) <= width);
        const folder = Deno.env.get("QMPBACKUP_TEST_SCREENSHOTS");
        const picture = await chromium.screenshot();
        assert(picture.length > 10_000);
        if (folder) await Deno.writeFile(join(folder, `page-${name}.png`), picture);
      });
    }
  },
});
