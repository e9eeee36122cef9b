import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { explainKey, isWrongKey, keyObject, problemOfKey } from "../../../src/qemu_img/key.ts";
import { withKey } from "../../../src/qemu_img/qemu_img.ts";

const bytesOf = (text: string) => new TextEncoder().encode(text);
const GOOD = "0123456789abcdef0123456789abcdef";

for (
  const [what, bytes, mode, problem] of [
    ["a line of text", bytesOf(`${GOOD}\n`), 0o100600, null],
    ["text without a newline", bytesOf(GOOD), 0o100400, null],
    ["what a group may read, as systemd's credentials", bytesOf(GOOD), 0o100440, null],
    ["a file of a system without modes", bytesOf(GOOD), null, null],
    ["letters beyond ASCII", bytesOf("žluťoučký kůň úpěl ďábelské"), 0o600, null],
    ["an empty file", bytesOf(""), 0o600, /^is empty: make a key/],
    ["what everybody may read", bytesOf(GOOD), 0o100644, /^can be read .* by every user/],
    ["what everybody may write", bytesOf(GOOD), 0o100602, /^can be read .* by every user/],
    ["a zero byte", bytesOf(`${GOOD}\0`), 0o600, /zero byte/],
    ["bytes that are not UTF-8", Uint8Array.from({ length: 32 }, () => 0xff), 0o600, /UTF-8/],
    ["a short passphrase", bytesOf("correct horse"), 0o600, /holds 13 bytes/],
  ] as const
) {
  Deno.test(`problemOfKey() ${problem === null ? "takes" : "refuses"} ${what}`, () => {
    const found = problemOfKey(bytes, mode);
    if (problem === null) assertEquals(found, null);
    else assertMatch(found ?? "", problem);
  });
}

Deno.test("keyObject() writes a comma of the file's name twice", () => {
  assertEquals(keyObject("/a,b"), "secret,id=backup-key,file=/a,,b");
});

Deno.test("withKey() names the key's file right after the subcommand", () => {
  assertEquals(withKey(["check", "x"], null), ["check", "x"]);
  assertEquals(withKey(["check", "x"], "/k"), ["check", "--object", keyObject("/k"), "x"]);
});

Deno.test("explainKey() says what to do about a wrong key and a missing one", () => {
  const wrong = "Could not open 'x': Invalid password, cannot unlock any keyslot";
  assertStringIncludes(explainKey(wrong), "does not hold the key of this image");
  assert(isWrongKey(new Error(wrong)));
  const missing = "Could not open 'x': Parameter 'encrypt.key-secret' is required for cipher";
  assertStringIncludes(explainKey(missing), "--key-file FILE");
  assert(!isWrongKey(new Error(missing)));
  assertEquals(explainKey("No space left on device"), "No space left on device");
});
