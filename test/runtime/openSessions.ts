import { InferenceSession } from 'onnxruntime-node';

/** Sees every session that is opened while it watches; may let their runs, or an opening, fail. */
export interface SessionWatch {
  /** Sessions that are open now, and all that were ever opened. */
  readonly open: number;
  readonly opened: number;
  stop(): void;
}

export interface SessionFaults {
  /** Every run fails. */
  readonly runs?: boolean;
  /** Opening number `opening` (from 1) fails. */
  readonly opening?: number;
}

export function watchSessions(faults: SessionFaults = {}): SessionWatch {
  const { create } = InferenceSession;
  let [open, opened] = [0, 0];
  InferenceSession.create = async (...inputs: unknown[]) => {
    if (opened + 1 === faults.opening) throw new Error('no session today');
    const session = (await Reflect.apply(create, InferenceSession, inputs)) as InferenceSession;
    open++;
    opened++;
    const release = session.release.bind(session);
    session.release = async () => {
      open--;
      await release();
    };
    if (faults.runs) session.run = () => Promise.reject(new Error('no run today'));
    return session;
  };
  return {
    get open() {
      return open;
    },
    get opened() {
      return opened;
    },
    stop() {
      InferenceSession.create = create;
    },
  };
}
