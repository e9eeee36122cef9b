/**
 * How much a run asks of QEMU. Each command runs in QEMU's main loop, where the guest's disks wait for it;
 * `x-debug-query-block-graph` walks all nodes.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { isBackupBitmap, isOurJob, isOurNode, MARKS } from "../../src/vm/names.ts";
import { countingProxy } from "../support/counting_proxy.ts";
import { scene } from "../support/scene.ts";
import { succeed } from "../support/tool.ts";

interface Sent {
  execute: string;
  arguments?: Record<string, unknown>;
}

/** A job that takes longer is asked for how far it is, once in a while: that is not counted. */
const ASKED_ANYWAY = "query-jobs";
/** What the VM is, for its record; by the device and the disk. */
const DESCRIPTION = ["query-target", "query-cpus-fast", "query-memory-size-summary", "qom-get"];
const MOST_DESCRIPTION = 9;
const MOST_COMMANDS = 37;
const MOST_GRAPHS = 3;

Deno.test("an increment of one idle disk asks little of QEMU, and names what it makes by the grammar", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full"));
  await s.remember("inc");
  const sent: Sent[] = [];
  {
    await using proxy = countingProxy(s.dir.join("counting.qmp"), s.vm.socket, (message) => {
      if (message.startsWith("→ ")) sent.push(JSON.parse(message.slice(2)));
      return Promise.resolve();
    });
    await succeed(["backup", "--socket", proxy.path, "--level", "inc", "--target", s.target]);
  }
  await s.assertRestores("inc");
  const names = sent.map(({ execute }) => execute).filter((name) =>
    !DESCRIPTION.includes(name) && name !== ASKED_ANYWAY
  );
  const description = sent.filter(({ execute }) => DESCRIPTION.includes(execute));
  assert(description.length <= MOST_DESCRIPTION, JSON.stringify(description, null, 1));
  const graphs = names.filter((name) => name === "x-debug-query-block-graph");
  assert(names.length <= MOST_COMMANDS, `${names.length} commands:\n${names.join("\n")}`);
  assert(graphs.length <= MOST_GRAPHS, `${graphs.length} graphs`);
  const made = sent.flatMap(namesMadeBy);
  assertEquals(made.filter((name) => !isKnown(name)), []);
  assert(made.length > 10, made.join(" "));
});

/** The names that a command gives to what it makes, or to what it removes. */
function namesMadeBy({ execute, arguments: args = {} }: Sent): string[] {
  if (execute === "transaction") {
    const actions = args["actions"] as { type: string; data: Record<string, unknown> }[];
    return actions.flatMap(({ type, data }) => namesMadeBy({ execute: type, arguments: data }));
  }
  const key = {
    "blockdev-add": "node-name",
    "blockdev-del": "node-name",
    "blockdev-backup": "job-id",
    "block-dirty-bitmap-add": "name",
    "block-dirty-bitmap-remove": "name",
    "block-export-add": "id",
    "object-add": "id",
  }[execute];
  return key === undefined ? [] : [String(args[key])];
}

function isKnown(name: string): boolean {
  return isOurNode(name) || isOurJob(name) || isBackupBitmap(name) ||
    Object.values<string>(MARKS).includes(name);
}
