import { assertEquals } from "@std/assert";
import type { BlockGraph } from "../../../src/qmp/queries.ts";
import { isReadTwice } from "../../../src/vm/read_twice.ts";

/** "a>b": a is the parent of b. */
function graphOf(...edges: string[]): BlockGraph {
  const pairs = edges.map((edge) => edge.split(">") as [string, string]);
  const names = [...new Set(pairs.flat())];
  return {
    nodes: names.map((name, id) => ({ id, name, type: "block-driver" })),
    edges: pairs.map(([parent, child]) => ({
      parent: names.indexOf(parent),
      child: names.indexOf(child),
      name: "file",
    })),
  };
}

for (
  const { what, edges, expected } of [
    { what: "a disk", edges: ["root>file"], expected: false },
    { what: "two disks on one image", edges: ["root>base", "other>base"], expected: false },
    { what: "our filter", edges: ["root>disk", "root>fleece", "snap>root"], expected: false },
    { what: "a backup to a new image", edges: ["root>disk", "root>target"], expected: false },
    { what: "one in pull mode", edges: ["root>disk", "root>old", "old>disk"], expected: true },
    {
      what: "one in pull mode below a filter",
      edges: ["root>cbw", "cbw>disk", "cbw>old", "old>x", "x>disk"],
      expected: true,
    },
  ]
) {
  Deno.test(`isReadTwice() of ${what}: ${expected}`, () =>
    assertEquals(isReadTwice(graphOf(...edges), "root"), expected));
}
