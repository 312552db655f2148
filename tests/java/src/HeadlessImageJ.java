import ij.Menus;
import java.io.IOException;
import java.io.InputStream;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.util.Hashtable;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Gives ImageJ its table of commands, which it otherwise makes together with a menu bar. */
final class HeadlessImageJ {
    private static final Pattern COMMAND =
            Pattern.compile("^\\w+=\"([^\"\\[]+)(?:\\[.*])?\",(.+)$");

    private static final String DEEPIMAGEJ = "DeepImageJ Run";

    private HeadlessImageJ() {}

    /** Takes deepImageJ from the menus, or puts it back. */
    @SuppressWarnings("unchecked")
    static void install(boolean deepImageJ) {
        Hashtable<String, String> commands = Menus.getCommands();
        commands.remove(DEEPIMAGEJ);
        if (deepImageJ) {
            commands.put(DEEPIMAGEJ, "DeepImageJStandIn");
        }
    }

    static void start() throws IOException, ReflectiveOperationException {
        Hashtable<String, String> commands = new Hashtable<>();
        try (InputStream properties = Menus.class.getResourceAsStream("/IJ_Props.txt")) {
            String text = new String(properties.readAllBytes(), StandardCharsets.UTF_8);
            for (String line : text.split("\\R")) {
                Matcher found = COMMAND.matcher(line);
                if (found.matches()) {
                    commands.put(found.group(1).trim(), found.group(2).trim());
                }
            }
        }
        // Commands of the menus that ImageJ builds in its own code.
        commands.put("32-bit", "ij.plugin.Converter(\"32-bit\")");
        commands.put(DEEPIMAGEJ, "DeepImageJStandIn");
        Field table = Menus.class.getDeclaredField("pluginsTable");
        table.setAccessible(true);
        table.set(null, commands);
    }
}
