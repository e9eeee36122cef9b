import { assertEquals } from "@std/assert";
import { escapeHtml, html } from "../../../../../src/cli/output/page/html.ts";

const TEXTS: [text: string, escaped: string][] = [
  ["plain", "plain"],
  ["<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"],
  [`" onload='x' & y`, "&quot; onload=&#39;x&#39; &amp; y"],
  ["&lt;", "&amp;lt;"],
  ["a\u202eb\x00c", "a\\x202eb\\x00c"],
];
for (const [text, escaped] of TEXTS) {
  Deno.test(`escapeHtml() makes text of ${JSON.stringify(text)}`, () => {
    assertEquals(escapeHtml(text), escaped);
  });
}

Deno.test("html() escapes all but what a template made", () => {
  const rows = ["<a>", "b"].map((text) => html`<li>${text}</li>`);
  const { markup } = html`<ul title="${'"'}">${rows}${html`<br>`}${[]}${3}</ul>`;
  assertEquals(markup, '<ul title="&quot;"><li>&lt;a&gt;</li><li>b</li><br>3</ul>');
});
