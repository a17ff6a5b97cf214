package tocsin;

import org.apache.flink.streaming.api.functions.source.legacy.SourceFunction;
import org.apache.flink.types.Row;

/**
 * Wakes each reader once after every start, then keeps the job alive: readers poll by timers of their own.
 *
 * <p>A job whose sources have ended finishes, and what its last epoch staged would not be committed. So this source has
 * no end; whoever started the job cancels it once every table has all that there was.
 */
public final class Seeds implements SourceFunction<Row> {
    private static final long serialVersionUID = 1L;

    private final int[] keys;
    private volatile boolean running = true;

    public Seeds(int[] keys) {
        this.keys = keys;
    }

    @Override
    public void run(SourceContext<Row> context) throws Exception {
        synchronized (context.getCheckpointLock()) {
            for (int key : keys) {
                context.collect(Element.of(key, Element.SEED, 0L));
            }
        }
        while (running) {
            Thread.sleep(100);
        }
    }

    @Override
    public void cancel() {
        running = false;
    }
}
