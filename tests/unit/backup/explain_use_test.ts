import { assertEquals, assertStringIncludes } from "@std/assert";
import { usersOf } from "../../../src/backup/explain_use.ts";
import type { BlockGraph, Job } from "../../../src/qmp/queries.ts";

/** As QEMU 7.2 tells it: a commit of "ov" into "disk0" on one disk, and a second disk "disk1". */
const GRAPH: BlockGraph = {
  nodes: [
    { id: 1, type: "block-backend", name: "/machine/peripheral/vd0/virtio-backend" },
    { id: 2, type: "block-driver", name: "#block617" },
    { id: 3, type: "block-backend", name: "/machine/peripheral/vd1/virtio-backend" },
    { id: 4, type: "block-driver", name: "disk1" },
    { id: 5, type: "block-backend", name: "" },
    { id: 6, type: "block-driver", name: "disk0" },
    { id: 7, type: "block-job", name: "cm" },
    { id: 8, type: "block-driver", name: "ov" },
    { id: 9, type: "block-backend", name: "" },
  ],
  edges: [
    { parent: 1, child: 2, name: "root", perm: ["write"] },
    { parent: 2, child: 8, name: "backing", perm: ["write"] },
    { parent: 8, child: 6, name: "backing", perm: [] },
    { parent: 7, child: 2, name: "main node", perm: ["consistent-read"] },
    { parent: 7, child: 8, name: "source", perm: [] },
    { parent: 5, child: 6, name: "root", perm: ["write"] },
    { parent: 3, child: 4, name: "root", perm: ["write"] },
    { parent: 9, child: 4, name: "root", perm: ["consistent-read"] },
  ],
};
const JOB: Job = {
  ...{ id: "cm", type: "commit", status: "running" },
  ...{ "current-progress": 0, "total-progress": 1 },
};
const EXPORT = { id: "exp", type: "nbd", node: "disk1" };
const first = { rootNode: "#block617", node: "ov" };
const second = { rootNode: "disk1", node: "disk1" };

Deno.test("usersOf() names the job on a disk, with its kind and what to do", () => {
  const [user = "", ...more] = usersOf(first, GRAPH, [JOB], [EXPORT]);
  assertEquals(more, []);
  assertStringIncludes(user, `another program's job "cm" (commit) is at work on it`);
  assertStringIncludes(user, "job-cancel");
});

Deno.test("usersOf() passes over an export that only reads, and another disk's job", () => {
  assertEquals(usersOf(second, GRAPH, [JOB], [EXPORT]), []);
});

Deno.test("usersOf() names an export that lets others write", () => {
  const edges = GRAPH.edges.map((edge) => edge.parent === 9 ? { ...edge, perm: ["write"] } : edge);
  const [user = "", ...more] = usersOf(second, { ...GRAPH, edges }, [JOB], [EXPORT]);
  assertEquals(more, []);
  assertStringIncludes(user, 'the export "exp" (nbd) lets others write to its node "disk1"');
});

Deno.test("usersOf() passes over our own job", () => {
  const nodes = GRAPH.nodes.map((node) =>
    node.id === 7 ? { ...node, name: "qmpbackup.f00dcafe.ov" } : node
  );
  assertEquals(usersOf(first, { ...GRAPH, nodes }, [], []), []);
});
