import type { Allocation } from '../events.ts';
import { decimal, integer } from '../format.ts';
import { type Html, html } from '../html.ts';
import type { Run } from '../read.ts';

/** Ranks and trained scalars of every module. */
export function moduleTable(run: Run): Html {
  if (run.modules.length === 0)
    return html`<p class="note">No adapter and no allocation has been written yet.</p>`;
  const best = run.modules.some((m) => m.best !== undefined && m.best !== m.after);
  const body = run.modules.map((m) => {
    const moved = m.after - m.before;
    const shift =
      moved > 0
        ? html`<span class="up">+${moved}</span>`
        : moved < 0
          ? html`<span class="down">\u2212${-moved}</span>`
          : html`<span class="zero">0</span>`;
    return html`<tr><th scope="row" class="mono">${m.name}</th><td class="n">${m.before}</td><td class="n">${m.after}</td><td class="n">${shift}</td>${best && html`<td class="n">${m.best ?? '\u2013'}</td>`}<td class="n">${m.cost === undefined ? '\u2013' : integer(m.cost)}</td><td class="n">${m.cost === undefined ? '\u2013' : integer(m.cost * m.after)}</td></tr>`;
  });
  return html`<details${run.modules.length <= 12 ? html` open` : ''}><summary>Every module: ranks and parameters (${run.modules.length})</summary><div class="scroll"><table>
<thead><tr><th>module</th><th class="n">start</th><th class="n">end</th><th class="n">change</th>${best && html`<th class="n">best adapter</th>`}<th class="n">cost of a rank</th><th class="n">parameters</th></tr></thead>
<tbody>${body}</tbody></table></div></details>`;
}

function counted(names: Iterable<readonly [module: string, count: number]>): Html[] {
  return [...names].map(
    ([module, count], i) =>
      html`${i > 0 && ', '}<span class="mono">${module}</span>${count > 1 && ` \u00d7${count}`}`,
  );
}

function tally(event: Allocation): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { module } of event.pruned) counts.set(module, (counts.get(module) ?? 0) + 1);
  return counts;
}

/** One line a round: how many ranks went and came, what it did to the loss, how long it took. */
export function allocationTable(run: Run): Html {
  const events = run.allocations;
  if (events.length === 0) return html``;
  const losses = events.some((e) => e.loss);
  const times = events.some((e) => e.seconds !== undefined);
  const body = events.map((event, i) => {
    const grown = Object.entries(event.grown).filter(([, n]) => n > 0);
    const total = grown.reduce((sum, [, n]) => sum + n, 0);
    const live = Object.values(event.ranks).reduce((sum, n) => sum + n, 0);
    return html`<tr><th scope="row">${event.round ?? i + 1}</th><td class="n">${integer(event.step)}</td><td class="n"><span class="down">${event.pruned.length > 0 ? `\u2212${event.pruned.length}` : 0}</span></td><td class="n"><span class="up">${total > 0 ? `+${total}` : 0}</span></td><td class="n">${integer(live)}</td>${losses && html`<td class="n">${decimal(event.loss?.before)}</td><td class="n">${decimal(event.loss?.pruned)}</td><td class="n">${decimal(event.loss?.grown)}</td>`}${times && html`<td class="n">${event.seconds === undefined ? '\u2013' : event.seconds.toFixed(1)}</td>`}</tr>`;
  });
  const moves = events.map(
    (event, i) =>
      html`<tr><th scope="row">${event.round ?? i + 1}</th><td>${counted(tally(event))}</td><td>${counted(Object.entries(event.grown).filter(([, n]) => n > 0))}</td></tr>`,
  );
  const long = events.length > 24;
  const table = html`<div class="scroll"><table>
<thead><tr><th>round</th><th class="n">step</th><th class="n">pruned</th><th class="n">grown</th><th class="n">live ranks</th>${losses && html`<th class="n">loss before</th><th class="n">after pruning</th><th class="n">after growing</th>`}${times && html`<th class="n">seconds</th>`}</tr></thead>
<tbody>${body}</tbody></table></div>`;
  return html`<h3>Allocation rounds</h3>
${losses && html`<p class="note">Loss on the round's fixed batch of dev examples. New ranks start with B = 0, so growing changes nothing at that moment.</p>`}
${long ? html`<details><summary>All ${events.length} allocations</summary>${table}</details>` : table}
<details><summary>Which modules lost and won ranks</summary><div class="scroll"><table>
<thead><tr><th>round</th><th>pruned</th><th>grown</th></tr></thead><tbody>${moves}</tbody></table></div></details>`;
}
