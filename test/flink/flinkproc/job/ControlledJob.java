import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;

/**
 * A streaming job that does what a socket tells it: it runs while the socket is open, fails at a line "boom", and
 * finishes when the socket closes. When nobody listens, it fails at once.
 *
 * <p>One source serves every version of Flink from 1.19, so it keeps to what none of them took away: options by their
 * keys instead of RestartStrategies (gone in 2.0), and no generated types.
 *
 * <p>Arguments: source=HOST:PORT (once for each job), name=NAME, restarts=N (0: none), delay=DURATION, async, idle (main() submits
 * nothing, and does not end), throw (main() throws).
 */
public final class ControlledJob {

  public static void main(String[] args) throws Exception {
    List<String> sources = new ArrayList<>();
    Map<String, String> options = new HashMap<>();
    for (String arg : args) {
      String[] pair = arg.split("=", 2);
      String value = pair.length == 2 ? pair[1] : "";
      if (pair[0].equals("source")) {
        sources.add(value);
      } else {
        options.put(pair[0], value);
      }
    }

    StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment();
    env.setParallelism(1);
    env.configure(restarts(options));
    if (options.containsKey("throw")) {
      throw new IllegalStateException("main() was told to throw");
    }
    if (options.containsKey("idle")) {
      Thread.sleep(Long.MAX_VALUE);
    }
    String name = options.getOrDefault("name", "controlled");
    for (int i = 0; i < sources.size(); i++) {
      read(env, sources.get(i));
      String jobName = i == 0 ? name : name + "-" + (i + 1);
      if (options.containsKey("async")) {
        env.executeAsync(jobName);
      } else {
        env.execute(jobName);
      }
    }
  }

  private static Configuration restarts(Map<String, String> options) {
    Map<String, String> strategy = new HashMap<>();
    String restarts = options.getOrDefault("restarts", "0");
    if (restarts.equals("0")) {
      strategy.put("restart-strategy.type", "none");
    } else {
      strategy.put("restart-strategy.type", "fixed-delay");
      strategy.put("restart-strategy.fixed-delay.attempts", restarts);
      strategy.put("restart-strategy.fixed-delay.delay", options.getOrDefault("delay", "100ms"));
    }
    return Configuration.fromMap(strategy);
  }

  private static void read(StreamExecutionEnvironment env, String source) {
    int colon = source.lastIndexOf(':');
    // The last argument is how long the source waits for a lost socket to return: no time at all, so that a closed
    // socket means the end.
    env.socketTextStream(source.substring(0, colon), Integer.parseInt(source.substring(colon + 1)), "\n", 0)
        .map(ControlledJob::obey)
        .returns(String.class)
        .sinkTo(new DiscardingSink<>());
  }

  private static String obey(String line) {
    if (line.equals("boom")) {
      throw new IllegalStateException("the control socket said boom");
    }
    return line;
  }
}
