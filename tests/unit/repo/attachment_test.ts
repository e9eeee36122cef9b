import { assertEquals } from "@std/assert";
import { type Attachment, ATTACHMENT_HEAD, parseAttachment } from "../../../src/repo/attachment.ts";

const GOOD: Attachment = {
  ...ATTACHMENT_HEAD,
  name: "0123abcd",
  host: "host1",
  since: "2026-11-22T23:00:00.000Z",
  kind: "overlay",
  disks: [],
  files: ["/vm/try/disk0.qcow2"],
  sockets: null,
};

Deno.test("`parseAttachment()` reads what was written", () => {
  assertEquals(parseAttachment(JSON.stringify(GOOD)), GOOD);
});

const BAD: Record<string, string> = {
  "what is not JSON": "{",
  "another format": JSON.stringify({ ...GOOD, format: "qmpbackup-run" }),
  "a newer version": JSON.stringify({ ...GOOD, version: 2 }),
  "a name that leads elsewhere": JSON.stringify({ ...GOOD, name: "../../x" }),
  "a relative file": JSON.stringify({ ...GOOD, files: ["disk0.qcow2"] }),
  "a file on the way up": JSON.stringify({ ...GOOD, files: ["/vm/try/../../etc/passwd"] }),
  "a file with a NUL": JSON.stringify({ ...GOOD, files: ["/vm/a\0b"] }),
  "a relative socket": JSON.stringify({ ...GOOD, sockets: { nbd: "a", qmp: "/b" } }),
};
for (const [what, text] of Object.entries(BAD)) {
  Deno.test(`\`parseAttachment()\` refuses ${what}`, () => {
    assertEquals(parseAttachment(text), null);
  });
}
