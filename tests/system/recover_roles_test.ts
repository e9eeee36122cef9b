/**
 * That recovery removes all that a run can put into QEMU: each role of `src/vm/names.ts` is made in a fake
 * QEMU, and must be gone afterwards.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { QmpClient } from "../../src/qmp/client.ts";
import { recover } from "../../src/recovery/order.ts";
import * as names from "../../src/vm/names.ts";
import { serve } from "../support/fake_peer.ts";
import { answer, Refusal } from "../support/fake_qmp.ts";
import { tempDir } from "../support/temp_dir.ts";
import { deadline } from "../support/deadline.ts";

const TAG = "f00dcafe";

/** What a fake QEMU has, by its name. */
interface Contents {
  nodes: Set<string>;
  jobs: Set<string>;
  exports: Set<string>;
  /** On the node "disk0". */
  bitmaps: Set<string>;
  objects: Set<string>;
}

const remove = (from: Set<string>, name: unknown) => {
  if (!from.delete(String(name))) throw new Refusal(`"${name}" is not there`);
};

function answersOf({ nodes, jobs, exports, bitmaps, objects }: Contents) {
  const image = { filename: "/vm/d", format: "qcow2", "virtual-size": 1 << 20 };
  return {
    "query-jobs": () =>
      [...jobs].map((id) => ({
        ...{ id, type: "backup", status: "concluded" },
        ...{ "current-progress": 0, "total-progress": 0 },
      })),
    "job-dismiss": ({ id }: Record<string, unknown>) => remove(jobs, id),
    "query-block-exports": () => [...exports].map((id) => ({ id })),
    "block-export-del": ({ id }: Record<string, unknown>) => remove(exports, id),
    "x-debug-query-block-graph": () => ({
      nodes: [
        ...[...nodes].map((name, id) => ({ id, type: "block-driver", name })),
        ...[...jobs].map((name, id) => ({ id: 100 + id, type: "block-job", name })),
      ],
      edges: [],
    }),
    "query-block": () => [],
    "query-named-block-nodes": () => [{
      ...{ "node-name": "disk0", drv: "qcow2", file: "/vm/d", ro: false, image },
      "dirty-bitmaps": [...bitmaps].map((name) => ({ name, count: 0, granularity: 65536 })),
    }],
    "blockdev-del": (args: Record<string, unknown>) => remove(nodes, args["node-name"]),
    "block-dirty-bitmap-remove": ({ name }: Record<string, unknown>) => remove(bitmaps, name),
    "qom-list": ({ path }: Record<string, unknown>) =>
      path === "/objects"
        ? [...objects].map((name) => ({ name, type: "child<secret>" }))
        : objects.has(String(path).slice("/objects/".length))
        ? [{ name: "data", type: "string" }]
        : [],
    "qom-get": () => "/nowhere/at/all",
    "object-del": ({ id }: Record<string, unknown>) => remove(objects, id),
    "nbd-server-stop": () => ({}),
    "query-status": () => ({ running: true, status: "running" }),
  };
}

/** What is left when recovery is done; `told` gets the commands that it sent. */
async function leftAfterRecovery(
  contents: Contents,
  told: string[] = [],
): Promise<Record<string, string[]>> {
  const answers = Object.entries(answersOf(contents)).map(([command, answer]) => [
    command,
    (args: Record<string, unknown>) => {
      told.push(command);
      return answer(args);
    },
  ]);
  await using dir = await tempDir();
  await using fake = serve(dir.join("qmp"), (peer) => answer(peer, Object.fromEntries(answers)));
  await using qmp = await QmpClient.connect(fake.address, { timeoutMs: 5_000 });
  await recover(deadline, qmp, {
    dead: null,
    target: null,
    thaw: () => Promise.resolve(void told.push("thaw")),
    unlock: () => Promise.resolve(void told.push("unlock")),
  });
  return Object.fromEntries(Object.entries(contents).map(([kind, left]) => [kind, [...left]]));
}

Deno.test("Recovery removes what a run makes in any role, and nothing else", async () => {
  const left = await leftAfterRecovery({
    nodes: new Set([
      "disk0",
      ...names.NODE_ROLES.map((role) => names.nodeName(TAG, 0, role)),
      // Of a version to come.
      `qmpbackup-${TAG}-0-later`,
      "qmpbackup-of-somebody",
    ]),
    jobs: new Set([
      "other",
      ...Object.keys(names.JOB_ROLES).map((role) =>
        names.jobId(TAG, "disk0", role as names.JobRole)
      ),
    ]),
    exports: new Set(["other", names.exportId(TAG, 0)]),
    bitmaps: new Set(["other", names.jobBitmapName(TAG, 0)]),
    objects: new Set(["other", ...Object.values(names.MARKS), names.objectId(TAG, 0)]),
  });
  assertEquals(left, {
    nodes: ["disk0", "qmpbackup-of-somebody"],
    jobs: ["other"],
    exports: ["other"],
    bitmaps: ["other"],
    // The lock is taken over before. That disks are half rolled back stays true.
    objects: ["other", names.MARKS.lock, names.MARKS.rollback],
  });
});

Deno.test("Recovery lets the guest go on first, and asks for all nodes when ours are gone", async () => {
  const told: string[] = [];
  const nodes = ["snap", "gate", "cbw"].map((role) => names.nodeName(TAG, 0, role as never));
  await leftAfterRecovery({
    nodes: new Set(["disk0", ...nodes]),
    jobs: new Set([names.jobId(TAG, "disk0", "copy")]),
    exports: new Set(),
    bitmaps: new Set([names.jobBitmapName(TAG, 0)]),
    objects: new Set([names.MARKS.frozen, names.MARKS.paused]),
  }, told);
  const order = ["thaw", "job-dismiss", "blockdev-del", "query-named-block-nodes", "unlock"];
  assertEquals(told.filter((name) => order.includes(name)), [
    ...["thaw", "job-dismiss", "blockdev-del", "blockdev-del", "blockdev-del"],
    ...["query-named-block-nodes", "unlock"],
  ]);
  // Resumed before the agent is asked, which may take long.
  const seen = ["query-status", "thaw", "query-jobs"].map((name) => told.indexOf(name));
  assertEquals(seen, seen.toSorted((a, b) => a - b));
});

Deno.test("the test above knows all kinds of what a run puts into QEMU", () => {
  const tables = Object.keys(names).filter((name) => /^[A-Z_]+$/.test(name)).toSorted();
  assertEquals(tables, [
    ...["EXPORT_ROLES", "JOB_BITMAP_ROLES", "JOB_ROLES", "MARKS", "NODE_ROLES", "OBJECT_ROLES"],
  ]);
});
