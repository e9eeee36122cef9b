import { assert, assertEquals } from "@std/assert";
import { lastBackup } from "../../src/plan/last_backup.ts";
import { restorePoints } from "../../src/repo/chains.ts";
import { formatRecord, parseRecord } from "../../src/repo/record.ts";
import { nameWithoutSecrets, valueWithoutSecrets, withoutSecrets } from "../../src/secrets.ts";
import { aDisk, aDiskRecord, aRun } from "./_fixtures.ts";

/** What stands in the place of a secret is SECRET before, and *** after. */
const ROWS: [before: string, after?: string][] = [
  ["nbd://user:SECRET@host:10809/export"],
  ["nbd+unix:///disk?socket=/run/a.sock"],
  ["https://user:SECRET@host/a.qcow2?token=SECRET&x=1"],
  ["http://user:SEC@RET@host/a", "http://user:***@host/a"],
  ["ssh://user:SECRET@host:22/a.qcow2"],
  ["ssh://user@host/a.qcow2"],
  ["iscsi://user%SECRET@192.0.2.1:3260/iqn.2001-04.com.example/1"],
  ["ftp://user:@host/a", "ftp://user:***@host/a"],
  ["rbd:pool/image:id=admin:key=SECRET:mon_host=a\\:6789"],
  [
    "rbd:pool/image:id=admin:key=SEC\\:RET==:conf=/etc/ceph",
    "rbd:pool/image:id=admin:key=***:conf=/etc/ceph",
  ],
  ["rbd:pool/image:id=admin"],
  ['json:{"driver": "https", "url": "https://h/a", "password": "SECRET", "username": "u"}'],
  ['json:{"driver":"qcow2","file.password":"SECRET","file.cookie":"SECRET","file.url":"x"}'],
  ['json:{"password-secret":"sec0","cookie-secret":"sec1","key-secret":"sec2"}'],
  ['json:{"password":"with \\" a quote","x":"y"}', 'json:{"password":"***","x":"y"}'],
  // As a log shows a message: a string in a string, twice.
  ['{"file":"json:{\\"password\\":\\"SECRET\\",\\"x\\":\\"y\\"}"}'],
  ['{"a":"{\\"f\\":\\"json:{\\\\\\"key\\\\\\":\\\\\\"SECRET\\\\\\"}\\"}"}'],
  ["Could not open 'https://user:SECRET@host/a': 404"],
  ["-o file.driver=https,file.password=SECRET,size=1"],
  ["/vm/key=disk/a b:c@d.qcow2", "/vm/key=disk/a b:c@d.qcow2"],
  ["/vm/disk.qcow2"],
  ["Disk vd0: full (no backup yet), pass 1: 50 %"],
];
for (const [before, after = before.replaceAll("SECRET", "***")] of ROWS) {
  Deno.test(`\`withoutSecrets()\` of ${before}`, () => {
    assertEquals(withoutSecrets(before), after);
    assertEquals(withoutSecrets(after), after);
  });
}

Deno.test("`valueWithoutSecrets()` looks into all of a value, and keeps the rest", () => {
  const value = {
    filename: "nbd://u:SECRET@h/x",
    "format-specific": {
      data: { key: "SECRET", "key-secret": "sec0", slots: [{ offset: 1, key: 7 }] },
    },
    list: ["rbd:p/i:key=SECRET", null, true],
  };
  const clean = valueWithoutSecrets(value);
  assertEquals(clean, JSON.parse(JSON.stringify(value).replaceAll("SECRET", "***")));
  assert(!JSON.stringify(clean).includes("SECRET"));
});

Deno.test("a record that still holds a secret is of the disk whose secret is taken out now", () => {
  const id = "/machine/peripheral-anon/device[0]";
  const source = "nbd://u:SECRET@h/x";
  const run = parseRecord("r", formatRecord(aRun([aDiskRecord("disk0", { id, source })])));
  assertEquals(run.disks[0]?.source, "nbd://u:***@h/x");
  const found = (source: string) => {
    const disk = aDisk("other", { id, source });
    return lastBackup(disk, [disk], restorePoints([run]))?.disk.file;
  };
  assertEquals(found(withoutSecrets(source)), run.disks[0]?.file);
  assertEquals(found("nbd://u:***@h/y"), undefined);
});

Deno.test("`nameWithoutSecrets()` leaves the names of files as they are", () => {
  for (const name of ["key=a.qcow2", "a,password=b.qcow2", "/vm/x?token=1.raw", "disk.qcow2"]) {
    assertEquals(nameWithoutSecrets(name), name);
    assertEquals(valueWithoutSecrets({ filename: name }), { filename: name });
  }
  assertEquals(nameWithoutSecrets("rbd:p/i:key=x"), "rbd:p/i:key=***");
  assertEquals(nameWithoutSecrets('json:{"password":"x"}'), 'json:{"password":"***"}');
});
