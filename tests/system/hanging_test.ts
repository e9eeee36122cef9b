/**
 * That a file system that hangs holds no command for ever: each ends with the path, and with what to do.
 * (For backups see `tests/vm/storage_test.ts`.) Needs root, for the mounts.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { cleanup } from "../../src/cli/commands/cleanup.ts";
import type { CommandContext } from "../../src/cli/commands/context.ts";
import { info } from "../../src/cli/commands/info.ts";
import { restoreMerge } from "../../src/cli/commands/restore.ts";
import { restoreAttach } from "../../src/cli/commands/restore_attach.ts";
import { restoreFiles } from "../../src/cli/commands/restore_files.ts";
import { restoreInPlace } from "../../src/cli/commands/restore_in_place.ts";
import { restoreVerify } from "../../src/cli/commands/restore_verify.ts";
import { writeMetrics } from "../../src/cli/metrics.ts";
import { Progress } from "../../src/cli/output/progress.ts";
import { startLog } from "../../src/cli/output/log.ts";
import { messageOf } from "../../src/errors.ts";
import { Deadline } from "../../src/fs/deadline.ts";
import { mountBadFs } from "../support/bad_fs.ts";
import { serve, within } from "../support/fake_peer.ts";
import { answer } from "../support/fake_qmp.ts";
import { tempDir } from "../support/temp_dir.ts";
import { contentsOf, firstDifference, KIB, makeLayer, readImage, type Write } from "./_images.ts";

const MIB = 1024 * KIB;
/** Far less than the time-outs of all else. */
const SOON_MS = 60_000;
/** A file system that does not hang answers within it, on a busy machine, too. */
const TIMEOUT_MS = 1_500;

/** What a command gets; what it prints goes nowhere. */
function contextOf(values: CommandContext["values"]): CommandContext {
  const quiet = () => {};
  const io = {
    stdout: quiet,
    stderr: quiet,
    isTerminal: false,
    color: false,
    columns: () => 80,
    rows: () => 24,
    width: () => 80,
  };
  return {
    ...{ values, topic: "", io, progress: new Progress(io, quiet, Infinity) },
    ...{ deadline: new Deadline(TIMEOUT_MS), signal: new AbortController().signal },
  };
}

/** It ends soon, and says which file system hangs. */
async function assertGivenUp(path: string, work: () => Promise<unknown>) {
  const error = await assertRejects(() => within(SOON_MS, work()), Error);
  const words = messageOf(error);
  assert(
    words.includes(`The file system of "${path}`) &&
      words.includes(`has not answered for ${TIMEOUT_MS / 1000} s. Check whether its server`),
    words,
  );
}

Deno.test("a file system that hangs ends `info`, `restore` and `cleanup`, and what writes metrics and logs", async (t) => {
  await using dir = await tempDir();
  await using bad = await mountBadFs(dir.join("bad"), 16 * MIB);
  const [hung, good] = [dir.join("bad"), dir.join("good")];
  for (const folder of [hung, good]) {
    await Deno.mkdir(`${folder}/_qmpbackup/runs`, { recursive: true });
    await Deno.writeTextFile(`${folder}/_qmpbackup/lock`, "");
    await Deno.mkdir(`${folder}/disk0`);
    await makeLayer(`${folder}/disk0/FULL-1-d`, MIB, [[0, MIB, 1]]);
  }
  await using _qmp = serve(dir.join("qmp"), (peer) => answer(peer, { "qom-list": () => [] }));
  const cases: Record<string, () => Promise<unknown>> = {
    "info --dir": () => info(contextOf({ dir: hung })),
    "restore merge --dir": () =>
      restoreMerge(contextOf({ dir: `${hung}/disk0`, targetfile: dir.join("out") })),
    "restore merge --targetfile": () =>
      restoreMerge(contextOf({ dir: `${good}/disk0`, targetfile: `${hung}/out` })),
    "restore merge --target-dir": () =>
      restoreMerge(contextOf({ dir: hung, "target-dir": dir.join("out") })),
    "restore rebase": () => restoreInPlace("rebase")(contextOf({ dir: `${hung}/disk0` })),
    "restore attach": () =>
      restoreAttach(contextOf({ dir: `${hung}/disk0`, "target-dir": dir.join("out") })),
    "restore attach --list": () => restoreAttach(contextOf({ dir: hung, list: "/" })),
    "restore files": () => restoreFiles(contextOf({ dir: `${hung}/disk0`, list: "/" })),
    "restore verify": () => restoreVerify(contextOf({ dir: hung })),
    "cleanup --recover": () =>
      cleanup(contextOf({ recover: true, socket: dir.join("qmp"), target: hung })),
    "--metrics-file": () =>
      writeMetrics(new Deadline(TIMEOUT_MS), `${hung}/metrics.prom`, () => ""),
    "--logfile": () =>
      startLog(new Deadline(TIMEOUT_MS), () => {}, {
        ...{
          debug: false,
          color: false,
          file: `${hung}/log`,
          quiet: false,
          syslog: false,
          headline: "",
        },
      }),
  };
  bad.hang();
  try {
    for (const [name, work] of Object.entries(cases)) {
      await t.step(name, () => assertGivenUp(hung, work));
    }
  } finally {
    bad.resume();
  }
  assertEquals(await info(contextOf({ dir: good })), 0);
});

Deno.test("a restore goes on for longer than the time-out, and is ended where its file system hangs", async () => {
  await using dir = await tempDir();
  await using bad = await mountBadFs(dir.join("bad"), 64 * MIB);
  await Deno.mkdir(dir.join("disk0"));
  const writes: Write[] = [[0, 4 * MIB, 7]];
  await makeLayer(dir.join("disk0/FULL-1-d"), 4 * MIB, writes);
  const values = { dir: dir.join("disk0"), targetfile: dir.join("bad/out") };
  const start = performance.now();
  await restoreMerge(contextOf({ ...values, "rate-limit": MIB / 4 }));
  assert(performance.now() - start > 3 * TIMEOUT_MS, "it was to take longer");
  const restored = await readImage(values.targetfile, "qcow2");
  assertEquals(firstDifference(restored, contentsOf(4 * MIB, writes)), null);
  // Slow enough that it can't be over before the file system hangs.
  const context = contextOf({ ...values, targetfile: dir.join("bad/other"), "rate-limit": KIB });
  const update = context.progress.update.bind(context.progress);
  const copying = Promise.withResolvers<void>();
  context.progress.update = (...look) => {
    update(...look);
    copying.resolve();
  };
  const running = assertGivenUp(dir.join("bad"), () => restoreMerge(context));
  await copying.promise;
  bad.hang();
  try {
    await running;
  } finally {
    bad.resume();
  }
});
