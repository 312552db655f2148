package qupath.bioimageio.spec;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** Stands in for QuPath's class. The number of iterations is what the folder's name ends with. */
public class Model {
    private final String name;

    private Model(String name) {
        this.name = name;
    }

    public static Model parseModel(Path path) {
        return new Model(path.getFileName().toString());
    }

    public Map<?, ?> getConfig() {
        if (!name.contains("_")) {
            return Map.of();
        }
        double iterations = Double.parseDouble(name.substring(name.lastIndexOf('_') + 1));
        List<String> channels = new ArrayList<>();
        for (int k = 1; k <= iterations; k++) {
            channels.add("iteration_" + k);
        }
        if (name.startsWith("balanced")) {
            channels.add("balanced");
        }
        // QuPath reads every number as a double.
        return Map.of("dcbmz", Map.of("step_optical_depth", 0.5, "iterations", iterations,
                "channels", channels));
    }
}
