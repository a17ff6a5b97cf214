package tocsin;

import java.util.OptionalLong;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.types.Row;

/**
 * Tells the sinks, among their rows, of each checkpoint: to stage just before its barrier, to publish once it is complete.
 *
 * <p>A start from a checkpoint says first that this one is complete: what was staged for it may not be published yet.
 * It runs once, so that each sink hears it once, behind all rows that the checkpoint covers.
 */
public final class Epochs extends AbstractStreamOperator<Row> implements OneInputStreamOperator<Row, Row> {
    private static final long serialVersionUID = 1L;

    private final int[] sinks;
    private transient OptionalLong restored;

    public Epochs(int[] sinks) {
        this.sinks = sinks;
    }

    @Override
    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        restored = context.getRestoredCheckpointId();
    }

    @Override
    public void open() throws Exception {
        super.open();
        if (restored.isPresent()) {
            tell(Element.PUBLISH, restored.getAsLong());
        }
    }

    @Override
    public void processElement(StreamRecord<Row> element) {
        output.collect(element);
    }

    @Override
    public void prepareSnapshotPreBarrier(long checkpoint) {
        tell(Element.STAGE, checkpoint);
    }

    @Override
    public void notifyCheckpointComplete(long checkpoint) throws Exception {
        super.notifyCheckpointComplete(checkpoint);
        tell(Element.PUBLISH, checkpoint);
    }

    private void tell(int kind, long checkpoint) {
        for (int sink : sinks) {
            output.collect(new StreamRecord<>(Element.of(sink, kind, checkpoint)));
        }
    }
}
