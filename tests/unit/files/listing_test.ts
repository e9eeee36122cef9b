import { assertEquals, assertThrows } from "@std/assert";
import { complaintOf, parseListing as parseExt, quoted } from "../../../src/files/debugfs.ts";
import { isPlainName } from "../../../src/files/reader.ts";
import { parseListing as parseSevenZip } from "../../../src/files/seven_zip.ts";
import { Failure, UsageError } from "../../../src/errors.ts";
import { parsePath } from "../../../src/cli/commands/restore_files.ts";

const EXT = `/13/040755/0/0/.//
/2/040755/0/0/..//
/0/000000/0/0/gone//
/14/100644/0/0/a "q" b/2/
/15/040755/1000/1000/deep//
/16/120777/0/0/link/11/
/17/020644/0/0/tty/0/
/18/100644/0/0/line
/9/100644/0/0/end/1/
`;

Deno.test("debugfs' listing tells kinds apart", () => {
  assertEquals(parseExt(EXT).slice(0, 4), [
    { name: 'a "q" b', kind: "file", sizeBytes: 2, id: "14" },
    { name: "deep", kind: "folder", sizeBytes: 0, id: "15" },
    { name: "link", kind: "link", sizeBytes: 11, id: "16" },
    { name: "tty", kind: "other", sizeBytes: 0, id: "17" },
  ]);
});

Deno.test("debugfs' listing takes a name with a line end for one name", () => {
  const [entry] = parseExt("/18/100644/0/0/line\nend/1/\n/19/100644/0/0/b/1/\n");
  assertEquals([entry?.name, entry?.id], ["line\nend", "18"]);
});

Deno.test("debugfs' complaints are what it says besides its version", () => {
  assertEquals(complaintOf("debugfs 1.47.0 (5-Feb-2023)\n"), "");
  assertEquals(
    complaintOf("debugfs 1.47.0 (5-Feb-2023)\n/x: File not found\n"),
    "/x: File not found",
  );
});

Deno.test("`quoted()` leaves a request one request", () => {
  assertEquals(quoted('/a "b"'), '"/a ""b"""');
  assertThrows(() => quoted("/a\nquit"), Failure, "line end");
});

Deno.test("7z's listing tells files, folders and links apart", () => {
  const text = `Path = ETC
Folder = +
Size = 
Attributes = D

Path = ETC/host name
Folder = -
Size = 6
Attributes = A

Path = link
Size = 3
Symbolic Link = /etc/passwd
`;
  assertEquals(parseSevenZip(text), [
    { name: "ETC", kind: "folder", sizeBytes: 0, id: "ETC" },
    { name: "host name", kind: "file", sizeBytes: 6, id: "ETC/host name" },
    { name: "link", kind: "link", sizeBytes: 3, id: "link" },
  ]);
});

Deno.test("`isPlainName()` refuses names that lead elsewhere", () => {
  for (const name of ["", ".", "..", "a/b", "a\0b"]) assertEquals(isPlainName(name), false, name);
  for (const name of ["a", "...", "-rf", "a\nb", "ü"]) assertEquals(isPlainName(name), true, name);
});

Deno.test("`parsePath()` splits a path into partition and the rest", () => {
  const paths: Record<string, ReturnType<typeof parsePath>> = {
    "/": null,
    "": null,
    "/1": { number: 1, inside: "/" },
    "1/etc/": { number: 1, inside: "/etc" },
    "/12/a/../b": { number: 12, inside: "/b" },
    "/1/../../etc": null,
  };
  for (const [text, path] of Object.entries(paths)) {
    if (text === "/1/../../etc") assertThrows(() => parsePath(text), UsageError);
    else assertEquals(parsePath(text), path, text);
  }
  assertThrows(() => parsePath("/etc/hostname"), UsageError, "/1/etc/hostname");
});
