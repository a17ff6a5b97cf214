package tocsin;

import org.apache.flink.types.Row;

/** What flows: (key, (kind, number, bytes)); the kinds are those of elements.py. */
final class Element {
    static final int SEED = 0;
    static final int STAGE = 3;
    static final int PUBLISH = 4;

    private static final byte[] NOTHING = new byte[0];

    private Element() {}

    static Row of(int key, int kind, long number) {
        return Row.of(key, Row.of(kind, number, NOTHING));
    }
}
