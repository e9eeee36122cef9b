import { assert, assertEquals, assertNotMatch } from "@std/assert";
import { parseHolder } from "../../src/fs/flock.ts";
import { disksText } from "../../src/cli/output/report.ts";
import { Failure, LockedError } from "../../src/errors.ts";
import type { QmpClient } from "../../src/qmp/client.ts";
import * as queries from "../../src/qmp/queries.ts";
import { queryFeatures } from "../../src/qmp/schema.ts";
import { type Disk, type LeftOut, queryDisks } from "../../src/vm/disks.ts";
import { refuseLockedVm } from "../../src/vm/lock.ts";
import qemu72Schema from "../unit/qmp/qemu_7_2_schema.json" with { type: "json" };
import { Dice, dice, fuzz, mayReject } from "./_fuzz.ts";
import { anyJson, distort, jsonText, mutateText, nearlyRight, word } from "./_nonsense.ts";
import { deadline } from "../support/deadline.ts";

/** A QEMU that gives these answers. */
function answering(answer: (command: string) => unknown, version = "7.2.22"): QmpClient {
  const execute = (command: string) => Promise.resolve(answer(command));
  return { isOpen: true, version, execute } as unknown as QmpClient;
}

const ANSWERS: Record<string, unknown> = {
  "query-name": { name: "vm1" },
  "query-uuid": { UUID: "00000000-0000-0000-0000-000000000000" },
  "query-status": { running: true, status: "running" },
  "query-tpm": [{ id: "tpm0", model: "tpm-tis" }],
  "query-jobs": [
    { id: "j", type: "backup", status: "running", "current-progress": 1, "total-progress": 2 },
  ],
  "qom-list": [{ name: "drive", type: "str" }],
  "qom-get": "text",
  "query-pci": [{
    devices: [
      { qdev_id: "h0", class_info: { class: 264 } },
      { qdev_id: "", class_info: { class: 1540 }, pci_bridge: { devices: [] } },
    ],
  }],
  "query-qmp-schema": qemu72Schema,
};
const QUERIES: ((qmp: QmpClient) => Promise<unknown>)[] = [
  queries.queryJobs,
  queries.queryStatus,
  queries.queryIdentity,
  queries.queryTpms,
  (qmp) => queries.qomProperties(qmp, "/objects/x"),
  queries.queryPci,
  (qmp) => queries.qomChildren(qmp, "/machine/peripheral"),
  (qmp) => queries.qomText(qmp, "/objects/x", "drive"),
  queryFeatures,
];

fuzz("Each query throws Failure alone, whatever QEMU answers", dice, async (seed) => {
  const dice = new Dice(seed);
  const qmp = answering((command) => nearlyRight(dice, ANSWERS[command]), word(dice));
  await mayReject(Failure, dice.pick(QUERIES)(qmp));
});

const NODES = ["disk0", "disk1", "cbw", "#block1", "thr"];
const DRIVERS = ["qcow2", "raw", "throttle", "copy-before-write", "commit_top", "nvme"];

function aNode(dice: Dice) {
  const bitmap = () => ({
    ...(dice.once(4) ? {} : { name: word(dice) }),
    ...{ count: 0, granularity: 65536, recording: true, busy: false, persistent: true },
  });
  return {
    "node-name": dice.pick(NODES),
    drv: dice.pick(DRIVERS),
    file: word(dice),
    ro: dice.once(8),
    image: { filename: "/vm/a", format: "qcow2", "virtual-size": 1 << 20, "cluster-size": 65536 },
    "dirty-bitmaps": dice.some(2, bitmap),
  };
}

/** The devices of a VM and its block graph, circles and loose ends included. */
function aVm(dice: Dice): Record<string, unknown> {
  const nodes = dice.some(4, () => aNode(dice));
  const device = () => ({
    device: dice.once(2) ? "" : word(dice),
    qdev: dice.pick(["", "vd0", "/machine/peripheral/vd0/virtio-backend", `/x/${word(dice)}`]),
    ...(dice.once(8) ? {} : { inserted: dice.pick([...nodes, aNode(dice)]) }),
  });
  const edge = () => ({
    parent: dice.below(NODES.length),
    child: dice.below(NODES.length),
    name: dice.pick(["file", "backing", "target"]),
  });
  return {
    ...ANSWERS,
    "query-block": dice.some(3, device),
    "query-named-block-nodes": nodes,
    "x-debug-query-block-graph": {
      nodes: NODES.map((name, id) => ({ id, type: "block-driver", name })),
      edges: dice.some(6, edge),
    },
  };
}

function checkDisks(devices: unknown, { disks, leftOut }: { disks: Disk[]; leftOut: LeftOut[] }) {
  assertEquals(disks.length + leftOut.length, Array.isArray(devices) ? devices.length : -1);
  for (const { name } of disks) {
    // It becomes a folder.
    assertNotMatch(name, /^\.{0,2}$|[/\p{Cc}\p{Cs}]/u);
    assert(new TextEncoder().encode(name).length <= 64, name);
  }
  // What a terminal obeys.
  assertNotMatch(disksText(disks, leftOut), /(?!\n)\p{Cc}/u);
}

const TWISTED = ["query-block", "query-named-block-nodes", "x-debug-query-block-graph", "qom-list"];

fuzz(
  "queryDisks() tells each device as a disk or as left out, or throws Failure",
  dice,
  async (seed) => {
    const dice = new Dice(seed);
    const vm = aVm(dice);
    const isRight = dice.once(2), twisted = dice.pick(TWISTED);
    const answers = isRight ? vm : { ...vm, [twisted]: distort(dice, vm[twisted]) };
    const asked = queryDisks(answering((command) => answers[command]));
    const found = await (isRight ? asked : mayReject(Failure, asked));
    if (found) checkDisks(answers["query-block"], found);
  },
);

const HOST = Deno.hostname();

fuzz("refuseLockedVm() lets no mark pass for a dead run's", dice, async (seed) => {
  const dice = new Dice(seed);
  const holder = {
    ...{ run: "20261121T230000Z-0ld0ld00", host: HOST, pid: 1, since: "2026-11-21T23:00:00Z" },
    ...{ lockFile: dice.pick(["/nowhere/lock", word(dice)]), lockInode: 1, lockDevice: 1 },
  };
  const text = jsonText(nearlyRight(dice, holder));
  const mark = dice.once(2) ? text : mutateText(dice, text);
  const answers: Record<string, unknown> = { "qom-list": [{ name: "data" }], "qom-get": mark };
  const words = await refuseLockedVm(deadline, answering((command) => answers[command]), null)
    .then(() => "free", (error) => error instanceof LockedError ? "locked" : error);
  assertEquals(words, "locked");
}, { permissions: { sys: ["hostname"], read: true } });

fuzz("parseHolder() gives what stands in a lock, or null", dice, (seed) => {
  const dice = new Dice(seed);
  const holder = { run: "r", host: HOST, pid: 1, since: "2026-11-21T23:00:00Z" };
  const text = mutateText(dice, jsonText(nearlyRight(dice, holder)));
  const found = parseHolder(dice.once(10) ? jsonText(anyJson(dice)) : text);
  if (found) assertEquals(typeof found.run + typeof found.pid, "stringnumber");
});
