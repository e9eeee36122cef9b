/**
 * Waits for work that was begun side by side. All of it has ended then, also where some of it failed: nothing is
 * undone while the rest is still at work.
 *
 * @returns What each gave, in order.
 * @throws What the first one in order threw that failed.
 */
export async function sideBySide<T>(work: Iterable<Promise<T>>): Promise<T[]> {
  const ends = await Promise.allSettled(work);
  return ends.map((end) => {
    if (end.status === "rejected") throw end.reason;
    return end.value;
  });
}
