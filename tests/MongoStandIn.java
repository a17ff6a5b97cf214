import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.BsonTimestamp;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import io.netty.channel.Channel;
import java.util.List;
import org.h2.mvstore.MVStore;

/**
 * mongo-java-server with what today's driver asks for: FILE PORT [replica].
 *
 * It says that it is of MongoDB 5.0, answers hello, refuses every user, and may say that it is a replica set.
 */
public class MongoStandIn {
    private static boolean isReplica;
    private static int port;

    private static Document asNewer(Document answer) {
        if (answer != null && answer.containsKey("maxWireVersion")) {
            answer.put("maxWireVersion", 17);
            if (isReplica) {
                answer.put("setName", "tests");
                answer.put("hosts", List.of("127.0.0.1:" + port));
                answer.put("me", "127.0.0.1:" + port);
                answer.put("logicalSessionTimeoutMinutes", 30);
            }
        }
        if (answer != null && answer.get("cursor") instanceof Document cursor) {
            BsonTimestamp now = new BsonTimestamp(System.currentTimeMillis() / 1000 << 32);
            answer.put("operationTime", now);
            if (isReplica) {
                cursor.put("atClusterTime", now);
            }
        }
        return answer;
    }

    private static Document refusal() {
        return new Document("ok", 0).append("code", 18).append("codeName", "AuthenticationFailed")
            .append("errmsg", "Authentication failed.");
    }

    public static void main(String[] arguments) throws Exception {
        port = Integer.parseInt(arguments[1]);
        isReplica = arguments.length > 2;
        MVStore store = new MVStore.Builder().fileName(arguments[0]).autoCommitDisabled().open();
        H2Backend backend = new H2Backend(store) {
            @Override
            public Document handleCommand(Channel channel, String database, String command, Document query) {
                return asNewer(super.handleCommand(channel, database, command, query));
            }

            @Override
            public synchronized Document handleMessage(MongoMessage message) {
                Document query = message.getDocument();
                String command = query.keySet().iterator().next();
                if (command.equals("saslStart")) {
                    return refusal();
                }
                if (command.equals("endSessions")) {
                    return new Document("ok", 1);
                }
                if (command.equals("hello")) {
                    query.remove("hello");
                    Document older = new Document("isMaster", 1);
                    older.putAll(query);
                    query.clear();
                    query.putAll(older);
                }
                Document answer = asNewer(super.handleMessage(message));
                if (command.equals("insert") || command.equals("update") || command.equals("delete")) {
                    commit();  // what was confirmed is on disk: the tests kill this process
                }
                return answer;
            }
        };
        MongoServer server = new MongoServer(backend);
        server.enableOplog();
        server.bind("127.0.0.1", port);
        Thread.currentThread().join();
    }
}
