import type * as ort from 'onnxruntime-node';

/** An open session, and whether it may be closed while the named one works (undefined: one that is none of these). */
export interface OpenedSession<Name extends string> {
  readonly session: ort.InferenceSession;
  restsFor(working: Name | undefined): boolean;
}

/**
 * Sessions over one set of weights that work by turns. ONNX Runtime keeps the activations of the largest run for as long
 * as a session is open, and the system counts a mapped weight once for each session that has read it; so a session is
 * closed while another one works, and opened again when its turn comes: 0.3 s for 500 MB of weights.
 */
export class Turns<Name extends string> {
  private readonly sessions = new Map<Name, OpenedSession<Name>>();
  private last: Promise<unknown> = Promise.resolve();

  constructor(private readonly open: (name: Name) => Promise<OpenedSession<Name>>) {}

  /** Waits until all that was asked for before is done, then has the session of that name work. */
  use<Result>(name: Name, work: (session: ort.InferenceSession) => Promise<Result>): Promise<Result> {
    return this.after(async () => {
      await this.release((other, { restsFor }) => other !== name && restsFor(name));
      const opened = this.sessions.get(name) ?? (await this.open(name));
      this.sessions.set(name, opened);
      return work(opened.session);
    });
  }

  /** Closes what may rest, so that others can work. */
  rest(): Promise<void> {
    return this.after(() => this.release((_, { restsFor }) => restsFor(undefined)));
  }

  close(): Promise<void> {
    return this.after(() => this.release(() => true));
  }

  private after<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.last.then(work);
    // Who asked is told of the error; the next one has its turn all the same.
    this.last = result.catch(() => undefined);
    return result;
  }

  private async release(which: (name: Name, opened: OpenedSession<Name>) => boolean): Promise<void> {
    for (const [name, opened] of [...this.sessions]) {
      if (!which(name, opened)) continue;
      this.sessions.delete(name);
      await opened.session.release();
    }
  }
}
