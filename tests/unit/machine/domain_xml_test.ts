import { assertEquals, assertStringIncludes } from "@std/assert";
import { domainXml, isDomainXml } from "../../../src/machine/domain_xml.ts";

const XML = `<domain type='kvm'>
  <os><nvram template='/usr/share/OVMF_VARS.fd'>/nvram/vm1.fd</nvram></os>
  <devices>
    <disk type='file' device='disk'>
      <source file='/vm/a&amp;b.qcow2' index='1'/>
      <backingStore type='file' index='2'>
        <source file='/vm/base.qcow2'/>
        <backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type="block" device="disk">
      <source dev="/dev/vg/lv"/>
      <backingStore/>
    </disk>
    <disk type='file' device='cdrom'><source file='/iso/cd.iso'/></disk>
  </devices>
</domain>
`;

Deno.test("domainXml() puts the new paths in, and takes out what the disks stood on", () => {
  const files = new Map([
    ["/vm/a&b.qcow2", "/new/a&b.qcow2"],
    ["/dev/vg/lv", "/new/$&.raw"],
    ["/nvram/vm1.fd", "/new/vm1.fd"],
    ["/vm/hotplugged", "/new/hotplugged"],
  ]);
  const { xml, missing } = domainXml(XML, files);
  assertEquals(missing, ["/vm/hotplugged"]);
  assertStringIncludes(xml, "<source file='/new/a&amp;b.qcow2' index='1'/>");
  assertStringIncludes(
    xml,
    `<disk type="file" device="disk">\n      <source file="/new/$&amp;.raw"/>\n    </disk>`,
  );
  assertStringIncludes(xml, "<nvram template='/usr/share/OVMF_VARS.fd'>/new/vm1.fd</nvram>");
  assertStringIncludes(xml, "<source file='/iso/cd.iso'/>");
  assertEquals(xml.includes("backingStore"), false);
});

for (
  const [text, isXml] of [[XML, true], ["<?xml version='1.0'?>\n<!-- x -->\n<domain>", true], [
    "#!/bin/sh",
    false,
  ]] as const
) {
  Deno.test(`isDomainXml() of ${JSON.stringify(text.slice(0, 12))} is ${isXml}`, () => {
    assertEquals(isDomainXml(text), isXml);
  });
}
