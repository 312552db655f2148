import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * What both runners do: read inputs from the job's folder, run each several times, write the first
 * output, the seconds and the processor seconds of every run; write the engine's own sentence where
 * it refuses.
 *
 * <p>Arguments: weights, folder, number of inputs, repeats, threads. Files in the folder:
 * input_0.npy, output_0.npy, seconds_0.txt, processor_0.txt, ...; version.txt; error.txt.
 */
final class Job {
    /** Weights that are loaded. */
    interface Network extends AutoCloseable {
        /** Run once; only this call is timed. */
        Object run(Npy input) throws Exception;

        /** Take the one output tensor out of what run returned. */
        Npy output(Object result) throws Exception;
    }

    /** How an engine loads weights. */
    interface Loader {
        String version() throws Exception;

        Network load(Path weights, int threads) throws Exception;
    }

    /** Counts the processor seconds of all threads. */
    private static final OperatingSystemMXBean PROCESS =
            (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    private Job() {}

    static void main(String[] arguments, Loader loader) throws IOException {
        endWithParent();
        Path folder = Path.of(arguments[1]);
        try {
            run(arguments, folder, loader);
        } catch (Throwable error) {
            Files.writeString(folder.resolve("error.txt"), sentence(error), StandardCharsets.UTF_8);
            System.exit(3);
        }
        // Engines leave threads behind.
        System.exit(0);
    }

    private static void run(String[] arguments, Path folder, Loader loader) throws Exception {
        int inputs = Integer.parseInt(arguments[2]);
        int repeats = Integer.parseInt(arguments[3]);
        int threads = Integer.parseInt(arguments[4]);
        Files.writeString(folder.resolve("version.txt"), loader.version());
        if (inputs == 0) {
            return;
        }
        try (Network network = loader.load(Path.of(arguments[0]), threads)) {
            for (int i = 0; i < inputs; i++) {
                Npy input = Npy.read(folder.resolve("input_" + i + ".npy"));
                List<String> seconds = new ArrayList<>();
                List<String> processor = new ArrayList<>();
                for (int k = 0; k < repeats; k++) {
                    long busy = PROCESS.getProcessCpuTime();
                    long begin = System.nanoTime();
                    Object result = network.run(input);
                    seconds.add(Double.toString((System.nanoTime() - begin) * 1e-9));
                    processor.add(Double.toString((PROCESS.getProcessCpuTime() - busy) * 1e-9));
                    Npy output = network.output(result);
                    if (k == 0) {
                        output.write(folder.resolve("output_" + i + ".npy"));
                    }
                }
                Files.write(folder.resolve("seconds_" + i + ".txt"), seconds);
                Files.write(folder.resolve("processor_" + i + ".txt"), processor);
            }
        }
    }

    /** Refuse all but one: programs take a single input and a single output. */
    static void one(String what, int count) {
        if (count != 1) {
            throw new IllegalArgumentException(
                    "the network has " + count + " " + what + "s, and one can be run");
        }
    }

    private static String sentence(Throwable error) {
        Throwable root = error;
        while (root.getCause() != null && root.getCause() != root) {
            root = root.getCause();
        }
        String text = root.getMessage();
        return text == null || text.isBlank() ? root.toString() : text;
    }

    /** Stop when the process that started this one is gone: it holds the other end of the pipe. */
    private static void endWithParent() {
        Thread watch =
                new Thread(
                        () -> {
                            try {
                                while (System.in.read() >= 0) {
                                    continue;
                                }
                            } catch (IOException gone) {
                                Runtime.getRuntime().halt(4);
                            }
                            Runtime.getRuntime().halt(4);
                        });
        watch.setDaemon(true);
        watch.start();
    }
}
