import { assertEquals } from "@std/assert";
import { type Damage, joined, type NeededFiles, pointsHitBy } from "../../../src/verify/damage.ts";

const damage = (file: string, change: Partial<Damage> = {}): Damage => (
  { file, range: null, reason: "is missing", spoils: true, ...change }
);
const part = (offset: number, change: Partial<Damage> = {}) =>
  damage("f", { range: { offset, length: 16 }, reason: "differ", ...change });

/** Two chains of one disk, and a copy. */
const POINTS: NeededFiles[] = [["f"], ["f", "i"], ["f", "i", "j"], ["g"], ["g", "k"], ["c"]]
  .map((files) => ({ point: files.at(-1) as string, disk: "disk0", timeMs: 0, files }));

const SPOILED: [damaged: Damage[], spoiled: string[]][] = [
  [[], []],
  [[damage("f")], ["f", "i", "j"]],
  [[damage("i")], ["i", "j"]],
  [[damage("j"), damage("k")], ["j", "k"]],
  [[damage("c")], ["c"]],
  [[damage("digests/f.json", { spoils: false })], []],
  [[part(0), part(64)], ["f", "i", "j"]],
  [[damage("stranger")], []],
];
for (const [damages, spoiled] of SPOILED) {
  const names = damages.map(({ file }) => file).join(" and ") || "nothing";
  Deno.test(`pointsHitBy() says what is spoiled where ${names} is damaged`, () => {
    const hit = pointsHitBy(damages, POINTS);
    assertEquals(hit.spoiled.map(({ point }) => point), spoiled);
    const all = POINTS.map(({ point }) => point);
    assertEquals(hit.intact.map(({ point }) => point), all.filter((one) => !spoiled.includes(one)));
  });
}

Deno.test("pointsHitBy() counts a point as spoiled whose chain can't be told", () => {
  const lost: NeededFiles = { point: "i", disk: "disk0", timeMs: 0, files: [] };
  assertEquals(pointsHitBy([damage("i")], [lost]).spoiled, [lost]);
});

Deno.test("joined() makes one damage of parts side by side, and of no others", () => {
  const other = part(48, { reason: "can't be read" });
  assertEquals(joined([part(0), part(16), part(32), other, part(80), damage("f"), damage("f")]), [
    part(0, { range: { offset: 0, length: 48 } }),
    other,
    part(80),
    damage("f"),
    damage("f"),
  ]);
});
