import { resolve } from 'node:path';
import type { ModelConfig } from '../adapters/module.ts';
import { readPeft } from '../adapters/peft.ts';
import { AloraError } from '../errors.ts';
import type { Feeds } from '../runtime/session.ts';
import type { AdapterChoice } from './requests.ts';
import { fitAdapter, noAdapter, type ServedAdapter, stackedFeeds } from './servedAdapter.ts';
import type { AdapterSite } from './servingGraph.ts';

/** The adapters of one served model by their folders, and what feeds them to its graph. */
export class AdapterShelf {
  private readonly known = new Map<string, ServedAdapter>();
  private readonly base: ServedAdapter;
  private current: ServedAdapter;
  /** Feeds of one adapter for a whole batch. */
  private readonly feedsOf = new Map<ServedAdapter, Feeds>();
  /** The last mixture of adapters, so that a stream of like batches stacks them once. */
  private mixture: { readonly adapters: readonly ServedAdapter[]; readonly feeds: Feeds } | undefined;

  constructor(
    private readonly sites: readonly AdapterSite[],
    private readonly config: ModelConfig,
  ) {
    this.base = noAdapter(sites);
    this.current = this.base;
  }

  /** Makes an adapter (null: none) the one of requests that name none. */
  use(adapter: string | null): void {
    this.current = this.at(adapter);
  }

  forget(adapter: string): void {
    const path = resolve(adapter);
    const served = this.known.get(path);
    if (!served) return;
    this.known.delete(path);
    this.feedsOf.delete(served);
    this.mixture = undefined;
    if (this.current === served) this.current = this.base;
  }

  /** The adapter of each of `count` examples. Errors: ADAPTER_COUNT, and those of reading an adapter. */
  choose(choice: AdapterChoice | undefined, count: number): ServedAdapter[] {
    if (choice === undefined || choice === null || typeof choice === 'string') {
      const one = choice === undefined ? this.current : this.at(choice);
      return new Array<ServedAdapter>(count).fill(one);
    }
    if (choice.length !== count)
      throw new AloraError('usage', 'ADAPTER_COUNT', 'There must be one adapter for each example', {
        where: 'adapter',
        got: `${choice.length} adapters for ${count} examples`,
        fix: 'Name one adapter for all, or one (null for none) for each example.',
      });
    return choice.map((adapter) => this.at(adapter));
  }

  /** Inputs of the graph for a batch in which example i has adapter i. */
  feeds(adapters: readonly ServedAdapter[]): Feeds {
    const [first] = adapters;
    if (adapters.every((adapter) => adapter === first)) {
      const feeds = this.feedsOf.get(first!) ?? stackedFeeds(this.sites, [first!]);
      this.feedsOf.set(first!, feeds);
      return feeds;
    }
    const last = this.mixture?.adapters;
    const same = last?.length === adapters.length && adapters.every((adapter, i) => adapter === last[i]);
    if (!this.mixture || !same) this.mixture = { adapters, feeds: stackedFeeds(this.sites, adapters) };
    return this.mixture.feeds;
  }

  private at(adapter: string | null): ServedAdapter {
    if (adapter === null) return this.base;
    const path = resolve(adapter);
    let served = this.known.get(path);
    if (!served) {
      served = fitAdapter(readPeft(path), this.sites, this.config);
      this.known.set(path, served);
      // Tensors are made now, so that the first request does not wait for them.
      this.feeds([served]);
    }
    return served;
  }
}
