import { assertEquals } from "@std/assert";
import { usableSentinel } from "../../../src/vm/sentinel.ts";
import { aBitmap } from "../_fixtures.ts";

const SENTINEL = { bitmap: "qmpbackup-disk0-f00dcafe-id(end)", countBytes: 65536 };
const LAST = { sentinel: SENTINEL, virtualSizeBytes: 1 << 20 };

function aWatchedDisk(countBytes = SENTINEL.countBytes, virtualSizeBytes = 1 << 20) {
  return {
    virtualSizeBytes,
    bitmaps: [aBitmap(SENTINEL.bitmap, { recording: false, countBytes })],
  };
}

Deno.test("usableSentinel() takes the last backup's where it still watches the disk's end", () => {
  assertEquals(usableSentinel(aWatchedDisk(), LAST), SENTINEL);
});

Deno.test("usableSentinel() takes none of a disk that was cut or has grown, or without a backup", () => {
  assertEquals(usableSentinel(aWatchedDisk(0), LAST), null);
  assertEquals(usableSentinel(aWatchedDisk(SENTINEL.countBytes, 2 << 20), LAST), null);
  assertEquals(usableSentinel(aWatchedDisk(), { ...LAST, sentinel: null }), null);
  assertEquals(usableSentinel(aWatchedDisk(), undefined), null);
  assertEquals(usableSentinel({ ...aWatchedDisk(), bitmaps: [] }, LAST), null);
});
